"""Who has a place, and who loses it."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilience.keyed._machine import LOOKS, Places


class Guest:
    """An entry that is idle, or not."""

    def __init__(self, *, idle: bool = True) -> None:
        self.idle = idle


def is_idle(guest: Guest) -> bool:
    return guest.idle


def filled(count: int, *, idle: bool) -> Places[Guest]:
    places: Places[Guest] = Places(count)
    for key in range(count):
        assert places.make_room(is_idle)
        places.put(key, Guest(idle=idle))
    return places


def test_there_is_room_until_all_places_are_taken() -> None:
    places = filled(3, idle=False)
    assert len(places) == 3
    assert places.evicted == 0
    assert not places.make_room(is_idle)


def test_the_idle_entry_used_longest_ago_makes_room() -> None:
    places = filled(3, idle=True)
    places.get(0)
    assert places.make_room(is_idle)
    assert list(places) == [2, 0]
    assert places.evicted == 1


def test_no_more_make_room_than_must() -> None:
    places = filled(3, idle=True)
    assert places.make_room(is_idle)
    assert places.make_room(is_idle)
    assert len(places) == 2


def test_an_entry_that_is_not_idle_goes_to_the_end_of_the_line() -> None:
    places = filled(3, idle=True)
    busy = places.get(0)
    assert busy is not None
    busy.idle = False
    places.get(1)
    places.get(2)
    assert places.make_room(is_idle)
    assert list(places) == [2, 0]


def test_only_a_few_are_looked_at_for_a_new_key() -> None:
    places = filled(3 * LOOKS, idle=False)
    looked: list[Guest] = []

    def look(guest: Guest) -> bool:
        looked.append(guest)
        return False

    assert not places.make_room(look)
    assert len(looked) == LOOKS
    places.make_room(look)
    assert len({id(guest) for guest in looked}) == 2 * LOOKS, "others each time"


def test_an_unknown_key_has_no_entry() -> None:
    assert filled(3, idle=True).get("unknown") is None
    assert "unknown" not in filled(3, idle=True)


def test_fewer_places_take_effect_as_entries_become_idle() -> None:
    places = filled(5, idle=False)
    places.max_keys = 2
    assert not places.make_room(is_idle)
    assert len(places) == 5
    for guest in places.entries().values():
        guest.idle = True
    assert places.make_room(is_idle)
    assert len(places) == 1


class PlacesRules(RuleBasedStateMachine):
    """Any history of asking and of becoming idle keeps what a plain list of (key, guest) keeps."""

    keys = st.integers(0, 12)

    @initialize(max_keys=st.integers(1, 2 * LOOKS))
    def begin(self, max_keys: int) -> None:
        self.places: Places[Guest] = Places(max_keys)
        self.max_keys = max_keys
        self.model: list[tuple[object, Guest]] = []
        self.evicted = 0

    def room(self) -> bool:
        for _ in range(min(LOOKS, len(self.model))):
            if len(self.model) < self.max_keys:
                break
            row = self.model.pop(0)
            if row[1].idle:
                self.evicted += 1
            else:
                self.model.append(row)
        return len(self.model) < self.max_keys

    @rule(key=keys, idle=st.booleans())
    def ask(self, key: int, idle: bool) -> None:
        row = next((row for row in self.model if row[0] == key), None)
        entry = self.places.get(key)
        if row is not None:
            assert entry is row[1]
            self.model.remove(row)
            self.model.append(row)
            return
        assert entry is None
        busy = [guest for guest in self.places.entries().values() if not guest.idle]
        has_room = self.places.make_room(is_idle)
        assert has_room == self.room()
        kept = list(self.places.entries().values())
        assert all(guest in kept for guest in busy), "who is not idle keeps the place"
        if has_room:
            guest = Guest(idle=idle)
            self.places.put(key, guest)
            self.model.append((key, guest))

    @rule(idle=st.booleans(), number=st.integers(0, 30))
    def turn(self, idle: bool, number: int) -> None:
        if self.model:
            self.model[number % len(self.model)][1].idle = idle

    @rule(max_keys=st.sampled_from([1, LOOKS - 1, LOOKS, LOOKS + 1]))
    def resize(self, max_keys: int) -> None:
        self.places.max_keys = self.max_keys = max_keys

    @invariant()
    def the_same_have_places(self) -> None:
        assert list(self.places.entries().items()) == self.model
        assert list(self.places) == [key for key, _ in self.model]
        assert self.places.evicted == self.evicted


TestPlacesRules = PlacesRules.TestCase
