"""What observers and methods measure is what `analysis` explains, and nothing else."""

import dataclasses

from analysis.vocabulary import Quantity
from tta_core.data.benchmarks import CLEAN
from tta_core.diagnostics.names import OBSERVERS
from tta_core.methods.base import Method
from tta_core.methods.registry import method_class, methods

DECLARED = [quantity for row in OBSERVERS.values() for quantity in row.quantities]


def test_the_vocabulary_has_every_quantity_and_no_other(make_scene):
    measuring = [name for name in methods() if method_class(name).diagnostics is not Method.diagnostics]
    of_methods = {quantity for name in measuring for quantity in make_scene(name).method.diagnostics()}
    assert len(set(DECLARED)) == len(DECLARED)
    assert of_methods.isdisjoint(DECLARED)
    assert {*DECLARED, *of_methods} == set(map(str, Quantity))


def test_every_quantity_has_a_unit_and_a_meaning():
    assert all(quantity.unit and quantity.meaning for quantity in Quantity)


def test_observers_measure_all_that_they_declare(make_scene, watch):
    """With what method is for the registry to say: all are tried, until nothing is left to be measured."""
    missing = set(DECLARED)
    # These have what observers look for, and come first because each run takes its time.
    for name in dict.fromkeys(("moetta", "imse", "moase", *methods())):
        if missing:
            watched = watch(make_scene(name, preset="digits-c"), tuple(OBSERVERS))
            missing -= {one.quantity for one in watched.record.measurements}
    assert not missing


def test_observers_that_read_clean_images_say_so(make_scene, watch):
    scene = make_scene("moetta", preset="digits-c")

    def without_clean(name):
        assert name != CLEAN
        return scene.open_domain(name)

    others = [row.name for row in OBSERVERS.values() if not row.reads_clean]
    assert watch(dataclasses.replace(scene, open_domain=without_clean), others).record.measurements
