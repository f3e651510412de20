"""The machine, said in SQL: by the server's clock, one statement a step."""

from typing import Final

MIGRATIONS: Final = (
    """
CREATE TABLE IF NOT EXISTS {table} (
    key bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    state smallint NOT NULL,
    owner bytea NOT NULL,
    epoch bigint NOT NULL,
    lease_until timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    taken_over boolean NOT NULL DEFAULT false,
    value bytea
);
CREATE INDEX IF NOT EXISTS {table}_expires_at ON {table} (expires_at);
""",
)
"""Each takes the schema one version further; none is ever changed."""

VERSIONS: Final = "CREATE TABLE IF NOT EXISTS {table}_schema (version integer PRIMARY KEY)"
VERSION: Final = "SELECT coalesce(max(version), 0) FROM {table}_schema"
REACHED: Final = "INSERT INTO {table}_schema (version) VALUES (%(version)s)"

# Two claims that meet: the second waits for the first to be written, then finds WHERE false and gets no row.
CLAIM: Final = """
INSERT INTO {table} AS r (key, fingerprint, state, owner, epoch, lease_until, expires_at)
VALUES (%(key)s, %(fingerprint)s, 0, %(owner)s, 1, clock_timestamp() + make_interval(secs => %(lease)s),
    clock_timestamp() + make_interval(secs => greatest(%(lease)s, %(retention)s)))
ON CONFLICT (key) DO UPDATE SET
    fingerprint = excluded.fingerprint, owner = excluded.owner, epoch = r.epoch + 1,
    lease_until = excluded.lease_until, expires_at = excluded.expires_at, value = NULL,
    taken_over = (r.state = 0 AND r.expires_at > clock_timestamp()), state = 0
WHERE r.expires_at <= clock_timestamp() OR r.state = 3
    OR (r.state = 0 AND r.lease_until <= clock_timestamp() AND %(takeover)s
        AND r.fingerprint = excluded.fingerprint AND r.owner <> excluded.owner)
RETURNING epoch, taken_over"""

LOOK: Final = """
SELECT fingerprint, state, owner, epoch,
    extract(epoch FROM lease_until - clock_timestamp())::float8,
    extract(epoch FROM expires_at - clock_timestamp())::float8, value
FROM {table} WHERE key = %(key)s"""

RENEW: Final = """
UPDATE {table} SET lease_until = clock_timestamp() + make_interval(secs => %(lease)s),
    expires_at = greatest(expires_at, clock_timestamp() + make_interval(secs => %(lease)s))
WHERE key = %(key)s AND owner = %(owner)s AND state = 0 AND expires_at > clock_timestamp() RETURNING 1"""

# A completion that is repeated changes nothing, and is true again.
COMPLETE: Final = """
UPDATE {table} SET
    value = CASE state WHEN 0 THEN %(value)s::bytea ELSE value END,
    expires_at = CASE state WHEN 0 THEN clock_timestamp() + make_interval(secs => %(retention)s)
        ELSE expires_at END,
    state = CASE WHEN state > 0 THEN state WHEN %(value)s::bytea IS NULL THEN 2 ELSE 1 END
WHERE key = %(key)s AND owner = %(owner)s AND state < 3 AND expires_at > clock_timestamp() RETURNING 1"""

RELEASE: Final = """
UPDATE {table} SET state = 3
WHERE key = %(key)s AND owner = %(owner)s AND state IN (0, 3) AND expires_at > clock_timestamp()
RETURNING 1"""

EXPIRE: Final = """
UPDATE {table} SET state = 3, owner = %(owner)s, value = NULL
WHERE key = %(key)s AND state < 3 AND expires_at > clock_timestamp() RETURNING 1"""

# Rows that somebody else is about to claim again are left alone.
PURGE: Final = """
DELETE FROM {table} WHERE key IN (
    SELECT key FROM {table} WHERE expires_at <= clock_timestamp()
    ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) RETURNING 1"""

# One who is inside a transaction with the key holds this until it ends: others are told at once.
TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%(number)s)"
