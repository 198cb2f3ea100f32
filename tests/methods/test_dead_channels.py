from crvq.methods.notes import dead_channels_notes


def test_notes_count_and_are_silent_about_none():
    assert dead_channels_notes(0) == []
    assert dead_channels_notes(1) == ["1 dead channel (never active on the calibration text)"]
    assert dead_channels_notes(5) == ["5 dead channels (never active on the calibration text)"]
