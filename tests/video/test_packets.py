"""Which packets are decoded for given frames."""

from hypothesis import given
from hypothesis import strategies as st

from svt_zoo.video.packets import Packet, plan


def stream(restarts: list[bool], shown: list[bool] | None = None) -> list[Packet]:
    """Packets with the timestamps 0, 1, 2, ... in decoding order."""
    shown = shown or [True] * len(restarts)
    return [Packet(i, s, r) for i, (r, s) in enumerate(zip(restarts, shown, strict=True))]


def test_packets_after_the_last_wanted_one_of_a_group_are_skipped() -> None:
    packets = stream([True, False, False, False, True, False, False])
    assert plan(packets, {1, 5}) == ["NONREF", "DEFAULT", None, None, "NONREF", "DEFAULT"]


def test_packets_before_a_key_frame_that_is_not_a_restart_point_are_decoded() -> None:
    packets = stream([True, False, False, False, False, False])
    assert plan(packets, {1, 5}) == ["NONREF", "DEFAULT", "NONREF", "NONREF", "NONREF", "DEFAULT"]


def test_only_the_wanted_pictures_are_decoded_if_every_picture_is_independent() -> None:
    assert plan(stream([True] * 5), {1, 3}) == [None, "DEFAULT", None, "DEFAULT"]


def test_a_hidden_packet_with_the_time_of_a_wanted_frame_is_not_that_frame() -> None:
    packets = [Packet(0, False, True), Packet(0, True, False)]
    assert plan(packets, {0}) == ["NONREF", "DEFAULT"]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.sets(st.integers(0, 39), max_size=10),
)
def test_the_plan_decodes_all_that_wanted_frames_may_refer_to(kinds: list[tuple[bool, bool]], wanted: set[int]) -> None:
    packets = stream([r for r, _ in kinds], [s for _, s in kinds])
    actions = plan(packets, wanted)
    needed = [i for i, p in enumerate(packets) if p.shown and i in wanted]
    assert len(actions) == (needed[-1] + 1 if needed else 0)
    for i in needed:
        assert actions[i] == "DEFAULT"
        start = max((j for j in range(i + 1) if packets[j].restart), default=0)
        assert None not in actions[start : i + 1]
    for i, action in enumerate(actions):
        assert (action == "DEFAULT") == (i in needed)
