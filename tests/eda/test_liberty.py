"""Liberty as foundries write it: small files in the syntax of several kits, what must be refused, and the whole way to a netlist."""

import gzip

import pytest

from overq.eda import synth
from overq.eda.liberty import Library
from overq.errors import InputError

# Quoted strings that run over lines with a backslash inside the quotes, lower-case units in quotes, spaces everywhere.
GF180_LIKE = r"""
/* a comment with "quotes" and { braces */
library ( "gf180like" ) {
  technology(cmos);
  delay_model                : "table_lookup";
  time_unit                  : "1ns";
  voltage_unit : "1V" ; current_unit : "1mA" ;
  capacitive_load_unit(1.0,"pf");
  nom_voltage : 5.0 ;
  operating_conditions("tt") { process : 1 ; temperature : 25 ; voltage : 5 ; tree_type : "balanced_tree" ; }
  default_operating_conditions : "tt" ;
  lu_table_template("tmg_ntin_oload_2x2") {
    variable_1 : "input_net_transition" ;
    variable_2 : "total_output_net_capacitance" ;
    index_1("0.01, 0.1") ;
    index_2("0.001, 0.1") ;
  }
  cell ( "inv_1" ) {
    area : 8.78 ;
    dont_touch : "false" ;
    pin("I") { direction : "input" ; capacitance : 0.004 ; }
    pin("ZN") {
      direction : "output" ;
      function : "(!I)" ;
      timing() {
        related_pin : "I" ; timing_sense : "negative_unate" ;
        cell_rise("tmg_ntin_oload_2x2") {
          values ("0.10, 0.20, \
0.30, 0.40");
        }
        cell_fall("tmg_ntin_oload_2x2") {
          index_1("0.01, 0.1") ;
          index_2("0.001, 0.1") ;
          values ("0.10, 0.20, \
            0.30, 0.40");
        }
        rise_transition("tmg_ntin_oload_2x2") { values ("0.1, 0.1","0.1, 0.1"); }
        fall_transition("tmg_ntin_oload_2x2") { values ("0.1, 0.1","0.1, 0.1"); }
      }
    }
  }
  cell ( "xor2_1" ) { area : 20 ;
    pin("A1") { direction : "input" ; capacitance : 0.004 ; }  pin("A2") { direction : "input" ; capacitance : 0.004 ; }
    pin("Z") { direction : "output" ; function : "((A1 & (!A2)) | ((!A1) & A2))" ; }
  }
}
"""

# No semicolons, picoseconds and femtofarads, flip-flop with an inverted output only, unquoted functions, // comments.
ASAP7_LIKE = """\
library (asap7like) {
  // no semicolons here
  delay_model : table_lookup
  time_unit : "1ps"
  capacitive_load_unit (1,ff)
  voltage_map (VDD, 0.7)
  nom_voltage : 0.7
  define(drive_strength, cell, float)
  cell (NAND2) { area : 0.08748
    pg_pin (VDD) { pg_type : primary_power
      voltage_name : "VDD" }
    pin (A, B) { direction : input
      rise_capacitance : 0.5
      fall_capacitance : 0.6 }
    pin (Y) { direction : output
      function : !(A & B)
      when : "A"
    }
  }
  cell (DFFHQN) {
    area : 0.29
    ff (IQ,IQN) { clocked_on : "CLK"
      next_state : "!D"
      power_down_function : "(!VDD) + (VSS)" }
    pin (CLK) { direction : input
      clock : true
      capacitance : 0.5 }
    pin (D) {
      direction : input
      capacitance : 0.6
    }
    pin (QN) { direction : output
      function : "IQ" }
  }
}
"""

# Library attributes in odd places, several tables a line, template that names the load first, quoted numbers, CRLF, a byte order mark.
SG13G2_LIKE = """\
\ufefflibrary (sg13g2like) {\r
  comment : "http://example.org /* no comment */ // none";\r
  time_unit : "1ns" ; capacitive_load_unit (1,pf);\r
  voltage_unit : "1V";\r
  lu_table_template (delay_2x3) { variable_1 : "total_output_net_capacitance" ; variable_2 : "input_net_transition" ;\r
     index_1 ("0.001, 0.3") ; index_2 ("0.02, 0.2, 2.0") ; }\r
  lu_table_template (scalar) { }\r
  operating_conditions ("typ_1p20V_25C") { voltage : "1.2" ; }\r
  cell (a21oi_1) { area : "9.07" ; cell_footprint : "A21OI" ;\r
    leakage_power () { value : 1; when : "!A1&!A2&B1"; }\r
    pin (A1) { direction : "input" ; capacitance : "0.003" ; } pin (A2) { direction : "input" ; capacitance : 0.003 ; }\r
    pin (B1) { direction : "input" ; capacitance : 0.003 ; }\r
    pin (Y) { direction : "output" ; function : "!((A1*A2)+B1)" ;\r
      timing () { related_pin : "A1 A2 B1" ; timing_type : "combinational" ; timing_sense : "negative_unate" ;\r
        cell_rise (delay_2x3) { values ("0.1, 0.2, 0.3", "0.4, 0.5, 0.6"); } rise_transition (scalar) { values ("0.1") ; }\r
        cell_fall (delay_2x3) { values ("0.1, 0.2, 0.3", "0.4, 0.5, 0.6"); } fall_transition (scalar) { values ("0.1") ; } } } } ;\r
  cell (dfrb_1) { area : 47 ; ff (IQ,IQN) { clocked_on : "CLK"; next_state : "D"; clear : "!RESET_B"; }\r
    pin (CLK) { direction : input ; clock : true ; capacitance : 0.003; } pin (D) { direction : input ; capacitance : 0.002; }\r
    pin (RESET_B) { direction : input ; capacitance : 0.002; } pin (Q_N) { direction : output ; function : "IQN" ; } }\r
}\r
"""


def inv_1(lib):
    return lib.cell("inv_1")


def library(folder, text, name="cells.lib"):
    (folder / name).write_bytes(text.encode("utf-8"))
    return Library(folder / name)


def test_gf180_like_strings_over_several_lines(tmp_path):
    lib = library(tmp_path, GF180_LIKE)
    assert lib.names == ["inv_1", "xor2_1"]
    assert (lib.name, lib.voltage, lib.time, lib.capacitance) == ("gf180like", 5.0, 1000.0, 1000.0)
    arc = lib.cell("inv_1").pins["ZN"].arcs[0]
    for edge in ("rise", "fall"):
        assert arc.delay[edge].values == [[100, 200], [300, 400]]
        assert (arc.delay[edge].slews, arc.delay[edge].loads) == ([10, 100], [1, 100])
    assert lib.cell("inv_1").timed
    assert not lib.cell("xor2_1").timed


def test_asap7_like_attributes_that_end_with_their_line(tmp_path):
    lib = library(tmp_path, ASAP7_LIKE)
    assert (lib.time, lib.capacitance, lib.voltage) == (1.0, 1.0, 0.7)
    nand, flip_flop = lib.cell("NAND2"), lib.cell("DFFHQN")
    assert (nand.area, [pin.name for pin in nand.inputs], nand.pins["A"].capacitance) == (0.08748, ["A", "B"], 0.55)
    assert nand.pins["Y"].function == "! ( A & B )"
    assert (flip_flop.clock, flip_flop.falling, flip_flop.data_pins) == ("CLK", False, ["D"])
    assert not flip_flop.inverted(flip_flop.pins["QN"])


def test_sg13g2_like_tables_by_load(tmp_path):
    lib = library(tmp_path, SG13G2_LIKE)
    assert (lib.name, lib.voltage) == ("sg13g2like", 1.2)
    cell = lib.cell("a21oi_1")
    assert [arc.source for arc in cell.pins["Y"].arcs] == ["A1", "A2", "B1"]
    table = cell.pins["Y"].arcs[0].delay["rise"]
    assert (table.slews, table.loads) == ([20, 200, 2000], [1, 300])
    assert table.values == [[100, 400], [200, 500], [300, 600]]
    assert cell.timed
    assert lib.cell("dfrb_1").unusual == "a flip-flop with clear"
    assert lib.cell("dfrb_1").asynchronous == (("RESET_B", True),)  # high, it does nothing


def test_gzip_and_several_files(tmp_path):
    whole = library(tmp_path, ASAP7_LIKE)
    (tmp_path / "cells.lib.gz").write_bytes(gzip.compress(ASAP7_LIKE.encode()))
    assert Library(tmp_path / "cells.lib.gz").cell("NAND2") == whole.cell("NAND2")
    first, second = ASAP7_LIKE.split("  cell (DFFHQN)")
    (tmp_path / "a.lib").write_text(first + "}\n")
    (tmp_path / "b.lib").write_text(first.split("  cell (NAND2)")[0].replace("0.7\n", "0.7\n", 1) + "  cell (DFFHQN)" + second)
    both = Library([tmp_path / "a.lib", tmp_path / "b.lib"])
    assert both.names == whole.names
    assert both.voltage == 0.7
    assert both.cell("DFFHQN") == whole.cell("DFFHQN")
    with pytest.raises(InputError, match=r"the cell NAND2 stands in .*cells\.lib and in .*a\.lib$"):
        Library([tmp_path / "cells.lib", tmp_path / "a.lib"])
    (tmp_path / "b.lib").write_text((tmp_path / "b.lib").read_text().replace("nom_voltage : 0.7", "nom_voltage : 0.8"))
    with pytest.raises(InputError, match=r"different voltages: .*a\.lib 0\.7 V, .*b\.lib 0\.8 V$"):
        _ = Library([tmp_path / "a.lib", tmp_path / "b.lib"]).voltage
    (tmp_path / "short.lib.gz").write_bytes(gzip.compress(ASAP7_LIKE.encode())[:-40])
    with pytest.raises(InputError, match=r"short\.lib\.gz is a damaged gzip file"):
        Library(tmp_path / "short.lib.gz")


@pytest.mark.parametrize(
    ("old", "new", "use", "message"),
    [
        ('"1ns"', '"1fortnight"', lambda lib: lib.time, r"time_unit is '1fortnight'; known units: s, ms, us, ns, ps, fs"),
        ('  time_unit                  : "1ns";\n', "", inv_1, r"time_unit is 'not given'"),
        ('"pf"', '"pints"', inv_1, r"capacitive_load_unit is '1\.0 pints'"),
        ('  capacitive_load_unit(1.0,"pf");\n', "", inv_1, r"capacitive_load_unit is 'not given'"),
        ('"1V"', '"1kV"', lambda lib: lib.voltage, r"voltage_unit is '1kV'"),
        ("voltage : 5 ;", "", lambda lib: lib.voltage, None),  # nom_voltage is there
        ("capacitance : 0.004", "slope : 1", inv_1, r"the pin I has no capacitance"),
        ("area : 8.78", "area : big", inv_1, r"cell inv_1: area is 'big', not a number"),
        ("area : 8.78 ;", "area : 8.78 ; area : 9 ;", inv_1, r"area is given as '8\.78' and as '9'"),
        ('0.30, 0.40");', '0.30");', inv_1, r"the table cell_rise has 3 values where its axes make 4"),
        ('index_1("0.01, 0.1") ;\n          ', 'index_1("0.1, 0.01") ;', inv_1, r"an index of cell_fall does not rise"),
        ("technology(cmos);", 'include_file("more.lib");', lambda lib: lib, r"line 4: include_file is not followed; give all files"),
        ("area : 8.78 ;", "area : 8.78 dont_use : true ;", inv_1, r"line 19: a second attribute begins before"),
        ('"xor2_1"', '"inv_1"', inv_1, r"defines the cell inv_1 twice"),
        ('("!I")', '("!I")', lambda lib: lib.cell("nothing"), r"has no cell nothing"),
        ("/* a comment", "/* a comment */ /* another", lambda lib: lib, None),
        ('{ braces */', "{ braces", lambda lib: lib, r"line 2: a comment that never ends"),
        ('function : "(!I)" ;', 'function : "(!I) ;', lambda lib: lib, r"a string that never ends|brace"),
        ("\n}\n", "\n", lambda lib: lib, r"1 closing brace missing at the end"),
        ("\n}\n", "\n}}\n", lambda lib: lib, r"a closing brace too many"),
        ("\n}\n", "\n}\nlibrary (b) { cell (c) { } }\n", lambda lib: lib, r"a second library; one library a file is read"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(tmp_path, old, new, use, message):
    if message is None:
        assert use(library(tmp_path, GF180_LIKE.replace(old, new))) is not None
        return
    with pytest.raises(InputError, match=message):
        use(library(tmp_path, GF180_LIKE.replace(old, new)))


def test_no_voltage_at_all_is_refused(tmp_path):
    text = ASAP7_LIKE.replace("  nom_voltage : 0.7\n", "")
    with pytest.raises(InputError, match=r"gives no voltage: neither operating conditions nor nom_voltage$"):
        _ = library(tmp_path, text).voltage


def test_groups_without_end_are_refused(tmp_path):
    text = "library (deep) { cell (c) { " + "g () { " * 5000 + "} " * 5000 + "} }"
    with pytest.raises(InputError, match=r"more than 40 groups within each other"):
        library(tmp_path, text).cell("c")


@pytest.mark.yosys
@pytest.mark.parametrize("text", [GF180_LIKE, ASAP7_LIKE, SG13G2_LIKE], ids=["gf180", "asap7", "sg13g2"])
def test_synthesis_takes_what_the_reader_takes(tmp_path, text):
    """Yosys and ABC read less than this (unquoted functions, lines without semicolons): they get the library written anew."""
    extra = """
  cell (INV_X) { area : 1; pin (A) { direction : input; capacitance : 0.001; } pin (Y) { direction : output; function : "!A"; } }
  cell (BUF_X) { area : 1.5; pin (A) { direction : input; capacitance : 0.001; } pin (Y) { direction : output; function : "A"; } }
  cell (NOR_X) { area : 2; pin (A) { direction : input; capacitance : 0.001; } pin (B) { direction : input; capacitance : 0.001; }
    pin (Y) { direction : output; function : "!(A|B)"; } }
  cell (DFF_X) { area : 7; ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }
    pin (D) { direction : input; capacitance : 0.001; } pin (CK) { direction : input; capacitance : 0.001; }
    pin (Q) { direction : output; function : "IQ"; } }
}
"""
    (tmp_path / "one.lib").write_text(text.rstrip()[:-1] + extra)
    design = "module top(input clk, a, b, c, output reg q); always @(posedge clk) q <= !((a & b) | c) ^ q; endmodule\n"
    recipe = next(r for r in synth.RECIPES if r.script == "default")
    netlist, _ = synth.mapped("top", design, Library(tmp_path / "one.lib"), recipe)
    assert len(netlist.flip_flops) == 1
    assert netlist.timing() is None  # these cells have no delays
    assert synth.synthesize("top", design, Library(tmp_path / "one.lib"), [recipe])[0].period == 0
    q, expected = 0, []
    for i in range(32):
        expected.append(q)
        q ^= not ((i & 1 and i >> 1 & 1) or i >> 2 & 1)
    seen, _ = netlist.run({"a": i & 1, "b": i >> 1 & 1, "c": i >> 2 & 1} for i in range(32))
    assert [row["q"] for row in seen] in (expected, [1 - v for v in expected])  # the register may be kept inverted, and starts at 0


def test_shared_cases(tmp_path):
    """The two files with which the reader was found wanting, mirrored."""
    values = 'index_1 ("0.1, 0.2"); index_2 ("0.1, 0.2"); values ("0.1, 0.2, \\\n      0.3, 0.4");'
    text = f"""library (ml) {{ time_unit : "1ns"; capacitive_load_unit (1,pf);
 cell (INV) {{ area : 1;
  pin (A) {{ direction : input; capacitance : 0.001; }}
  pin (Y) {{ direction : output; function : "!A";
   timing () {{ related_pin : "A"; timing_sense : negative_unate; cell_rise (t) {{ {values} }} cell_fall (t) {{ {values} }} }} }} }} }}
"""
    arc = library(tmp_path, text).cell("INV").pins["Y"].arcs[0]
    assert [arc.delay[edge].values for edge in ("rise", "fall")] == [[[100, 200], [300, 400]]] * 2
