"""What strides are held against: the same engine, one step at a time."""

from fareclass.engine.sim_replica import SimReplica


class StepByStep(SimReplica):
    """Every step is looked at by itself, so that nothing rests on how many are alike."""

    def _alike_steps(self) -> int:
        return 0
