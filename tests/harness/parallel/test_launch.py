"""What launchers leave in the environment."""

from __future__ import annotations

from harness.parallel.launch import ALONE, Launch, settle

LEFT = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "PMI_SIZE": "2",
    "MV2_COMM_WORLD_SIZE": "2",
}
PLACE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def test_settings_of_a_launcher_do_not_reach_the_training() -> None:
    environment = LEFT | PLACE | {"HOME": "/"}
    settle(Launch(1, 2, 1, 2), environment)
    assert environment == PLACE | {"HOME": "/"}


def test_a_process_that_is_alone_waits_for_no_other() -> None:
    environment = LEFT | PLACE | {"HOME": "/"}
    settle(ALONE, environment)
    assert environment == {"HOME": "/"}
