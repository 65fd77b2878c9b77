"""Errors say what is wrong and the way out, wherever they are shown."""

import pickle
import traceback

from zoo.errors import UnknownName


def test_a_traceback_ends_with_the_way_out():
    fault = UnknownName("no model 'x'", hint="zoo list")
    assert traceback.format_exception(fault)[-1] == "  try: zoo list\n"
    assert str(fault) == "no model 'x'"


def test_errors_come_home_from_other_processes_as_they_were():
    fault = pickle.loads(pickle.dumps(UnknownName("no model 'x'", hint="zoo list")))
    assert (type(fault), fault.message, fault.hint) == (UnknownName, "no model 'x'", "zoo list")
    assert fault.__notes__ == ["  try: zoo list"]
    assert pickle.loads(pickle.dumps(UnknownName("no", source="a:b"))).source == "a:b"
