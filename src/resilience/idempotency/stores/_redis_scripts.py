"""
The machine, said in Lua: one script an operation, on one key, by the server's clock.

A record is a hash: f fingerprint, s state, o owner, e epoch, l lease until, x expires at (both in
milliseconds), v value. The key's own time to live is that of the record, so that nothing stays for ever.
"""

from typing import Final

_HEAD: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
local record = redis.call('HMGET', KEYS[1], 'f', 's', 'o', 'e', 'l', 'x')
local fingerprint, state, owner, epoch = record[1], record[2], record[3], tonumber(record[4] or '0')
local lease, expires = tonumber(record[5] or '0'), tonumber(record[6] or '0')
local live = state and expires > now
"""

CLAIM: Final = (
    _HEAD
    + """
local takeover = 0
if live and state ~= 'released' then
    if fingerprint ~= ARGV[2] then return {'mismatch'} end
    if state == 'completed' then return {'replay', redis.call('HGET', KEYS[1], 'v')} end
    if state == 'tombstone' then return {'tombstone'} end
    if owner == ARGV[1] then return {'claimed', epoch, 0} end
    if lease > now then return {'inflight', lease - now} end
    if ARGV[5] ~= '1' then return {'unknown'} end
    takeover = 1
end
local lasts, kept = tonumber(ARGV[3]), tonumber(ARGV[4])
if kept < lasts then kept = lasts end
redis.call('HSET', KEYS[1], 'f', ARGV[2], 's', 'pending', 'o', ARGV[1], 'e', text(epoch + 1),
    'l', text(now + lasts), 'x', text(now + kept))
redis.call('HDEL', KEYS[1], 'v')
redis.call('PEXPIRE', KEYS[1], text(kept))
return {'claimed', epoch + 1, takeover}
"""
)

RENEW: Final = (
    _HEAD
    + """
if not (live and state == 'pending' and owner == ARGV[1]) then return 0 end
local till = now + tonumber(ARGV[2])
if expires < till then expires = till end
redis.call('HSET', KEYS[1], 'l', text(till), 'x', text(expires))
redis.call('PEXPIRE', KEYS[1], text(expires - now))
return 1
"""
)

COMPLETE: Final = (
    _HEAD
    + """
if not (live and owner == ARGV[1]) or state == 'released' then return 0 end
if state ~= 'pending' then return 1 end
redis.call('HSET', KEYS[1], 'x', text(now + tonumber(ARGV[2])))
if #ARGV > 2 then redis.call('HSET', KEYS[1], 's', 'completed', 'v', ARGV[3])
else redis.call('HSET', KEYS[1], 's', 'tombstone') end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
)

RELEASE: Final = (
    _HEAD
    + """
if not (live and owner == ARGV[1]) then return 0 end
if state == 'pending' then redis.call('HSET', KEYS[1], 's', 'released') return 1 end
return state == 'released' and 1 or 0
"""
)

EXPIRE: Final = (
    _HEAD
    + """
if not live or state == 'released' then return 0 end
redis.call('HSET', KEYS[1], 's', 'released', 'o', ARGV[1])
redis.call('HDEL', KEYS[1], 'v')
return 1
"""
)

INSPECT: Final = (
    _HEAD
    + """
if not live then return {} end
local value = redis.call('HGET', KEYS[1], 'v')
return {fingerprint, state, owner, epoch, lease - now, expires - now, value}
"""
)
