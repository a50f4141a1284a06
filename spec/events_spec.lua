-- events_spec.lua - the log of a run in its three forms: the fields of log.jsonl are those of their
-- table, log.csv and TensorBoard's events say what it says, and no step is in them twice. Events
-- are read by a decoder of this file's own, and by TensorBoard where it is (PF_PYTHON: a Python
-- that has it).
local commands = require "spec.support.commands"
local events = require "kit.events"
local log_fields = require "kit.log_fields"
local pf = require "performer"
local support = require "spec.support"

local good, log_of, path, train = commands.good, commands.log_of, commands.path, commands.train
local EVENTS = "events.out.tfevents.performer"

-- ---- a decoder ----

--- CRC-32C, a bit at a time.
local function crc32c(text)
  local c = 0xffffffff
  for i = 1, #text do
    c = c ~ text:byte(i)
    for _ = 1, 8 do c = (c & 1) * 0x82f63b78 ~ c >> 1 end
  end
  return c ~ 0xffffffff
end

local function check(text, stored)
  local rotated = (stored - 0xa282ead8) & 0xffffffff
  assert.equal(crc32c(text), (rotated >> 17 | rotated << 15) & 0xffffffff)
end

local function varint(text, at)
  local n, shift = 0, 0
  while true do
    local byte = text:byte(at)
    n, shift, at = n | (byte & 0x7f) << shift, shift + 7, at + 1
    if byte < 0x80 then return n, at end
  end
end

--- The fields of a message: { [number] = { values } }.
local function fields_of(text)
  local fields, at = {}, 1
  while at <= #text do
    local key, value
    key, at = varint(text, at)
    local kind = key & 7
    if kind == 0 then value, at = varint(text, at)
    elseif kind == 1 then value, at = string.unpack("<d", text, at)
    elseif kind == 5 then value, at = string.unpack("<f", text, at)
    elseif kind == 2 then
      local length
      length, at = varint(text, at)
      value, at = text:sub(at, at + length - 1), at + length
    else error("wire type " .. kind) end
    fields[key >> 3] = fields[key >> 3] or {}
    table.insert(fields[key >> 3], value)
  end
  return fields
end

--- The events of a file: { time, step, version, scalars = { [tag] = value } } each.
local function read_events(file)
  local text, at, list = assert(support.read(file)), 1, {}
  while at <= #text do
    local length, of_length, data, of_data
    length, of_length = string.unpack("<I8I4", text, at)
    check(text:sub(at, at + 7), of_length)
    data = text:sub(at + 12, at + 11 + length)
    assert.equal(length, #data)
    of_data = string.unpack("<I4", text, at + 12 + length)
    check(data, of_data)
    local event, scalars = fields_of(data), {}
    for _, value in ipairs(event[5] and fields_of(event[5][1])[1] or {}) do
      local scalar = fields_of(value)
      scalars[scalar[1][1]] = scalar[2][1]
    end
    list[#list + 1] = { time = event[1][1], step = event[2] and event[2][1],
                        version = event[3] and event[3][1], scalars = scalars }
    at = at + 16 + length
  end
  return list
end

--- A number as a float has it.
local function single(x) return (string.unpack("<f", string.pack("<f", x))) end

-- ---- tests ----

describe("the log", function()
  local run

  setup(function()
    commands.start()
    run = train("run", ("--data %s --steps 24 --eval-every 10 --log-every 4 --threads 1 "
      .. "--tensorboard"):format(path "t.txt"))
  end)
  teardown(commands.stop)

  it("has CRC-32C by the published vectors", function()
    local up, down = {}, {}
    for i = 0, 31 do up[i + 1], down[32 - i] = string.char(i), string.char(i) end
    for text, wanted in pairs { -- RFC 3720, B.4, and the check value of CRC catalogues
      [("\0"):rep(32)] = 0x8a9136aa, [("\xff"):rep(32)] = 0x62a8ab43,
      [table.concat(up)] = 0x46dd794e, [table.concat(down)] = 0x113fdb5c,
      ["123456789"] = 0xe3069283, [""] = 0,
    } do
      assert.equal(wanted, events.crc32c(text))
      assert.equal(wanted, crc32c(text))
    end
  end)

  it("has records in TFRecord's form, byte by byte", function()
    -- wall_time 1.0, step 300, a summary of ("a", 0.5)
    local data = "\x09\0\0\0\0\0\0\xf0\x3f" .. "\x10\xac\x02"
      .. "\x2a\x0a\x0a\x08\x0a\x01a\x15\0\0\0\x3f"
    assert.equal(events.record(data), events.scalars(1, 300, { { "a", 0.5 } }))
    assert.equal(string.pack("<I8I4", #data, events.masked(string.pack("<I8", #data))) .. data
      .. string.pack("<I4", events.masked(data)), events.record(data))
  end)

  it("says in its events what it says in its lines", function()
    local list, log = read_events(run .. "/" .. EVENTS), log_of(run)
    assert.equal("brain.Event:2", list[1].version)
    assert.equal(#log, #list - 1)
    for i, record in ipairs(log) do
      local event, expected = list[i + 1], {}
      if record.final then
        expected = { ["final/loss"] = record.valid_loss,
                     ["final/perplexity"] = record.valid_perplexity,
                     ["final/accuracy"] = record.valid_accuracy }
      else
        for tag, name in pairs { ["train/loss"] = "loss", ["train/smoothed"] = "smoothed",
                                 ["train/lr"] = "lr", ["train/gradient_norm"] = "norm",
                                 ["valid/loss"] = "valid_loss",
                                 ["speed/tokens_per_s"] = "tokens_per_s",
                                 ["memory/bytes_peak"] = "bytes_peak" } do
          expected[tag] = record[name]
        end
      end
      for tag, value in pairs(expected) do expected[tag] = single(value) end
      assert.same(expected, event.scalars)
      assert.equal(record.step, event.step)
      assert.is_true(math.abs(list[1].time + record.seconds - event.time) < 1e-3)
    end
  end)

  it("has a table with a row for every line but the last", function()
    local rows, log = {}, log_of(run)
    for line in support.read(run .. "/log.csv"):gmatch "[^\n]+" do
      rows[#rows + 1] = {}
      for cell in (line .. ","):gmatch "([^,]*)," do table.insert(rows[#rows], cell) end
    end
    assert.same({ "step", "loss", "smoothed", "valid_loss", "lr", "norm", "tokens_seen",
                  "tokens_per_s", "seconds", "bytes_peak" }, rows[1])
    assert.equal(#log, #rows)
    for i = 1, #log - 1 do
      for j, name in ipairs(rows[1]) do
        local told, value = tonumber(rows[i + 1][j]), log[i][name]
        assert.equal(value == nil, told == nil, name)
        if value then assert.is_true(math.abs(told - value) <= 1e-8 * math.abs(value), name) end
      end
    end
  end)

  it("has no step twice after going on, in none of its forms", function()
    local copy = commands.copy(run, "again")
    support.shell(("rm -r %s/step-24 && printf 'step-20\\n' > %s/LATEST"):format(copy, copy))
    good(("train --resume %s --threads 1"):format(copy))
    local function steps_of(folder)
      local list, told, table_ = {}, {}, {}
      for i, record in ipairs(log_of(folder)) do list[i] = record.step end
      for i, event in ipairs(read_events(folder .. "/" .. EVENTS)) do told[i] = event.step or 0 end
      for step in support.read(folder .. "/log.csv"):gmatch "\n(%d+)" do
        table_[#table_ + 1] = math.tointeger(step)
      end
      return { list, told, table_ }
    end
    assert.same(steps_of(run), steps_of(copy))
    assert.equal(commands.losses(run), commands.losses(copy))
    local first, second = read_events(run .. "/" .. EVENTS), read_events(copy .. "/" .. EVENTS)
    assert.equal(first[1].time, second[1].time)
    assert.equal(first[3].time, second[3].time)
  end)

  it("has events when they are asked for, also later", function()
    local plain = train("plain", ("--data %s --steps 6 --threads 1"):format(path "t.txt"))
    assert.is_false(commands.exists(plain .. "/" .. EVENTS))
    assert.is_true(commands.exists(plain .. "/log.csv"))
    good(("train --resume %s --steps 8 --tensorboard --threads 1"):format(plain))
    local steps = {}
    for i, event in ipairs(read_events(plain .. "/" .. EVENTS)) do steps[i] = event.step or 0 end
    assert.same({ 0, 1, 6, 8, 8 }, steps) -- what the first end said is gone
  end)

  it("keeps off what is somebody's", function()
    support.shell("mkdir -p " .. path "taken")
    support.write(path "taken/log.csv", "a,b\n1,2\n")
    local code, _, err = commands.performer(("train --data %s --out %s"):format(path "t.txt",
      path "taken"))
    assert.equal(2, code)
    commands.assert_sentence(err, "log.csv is there already, where this run will write its log as")
    assert.equal("a,b\n1,2\n", support.read(path "taken/log.csv"))
  end)

  -- ---- the table of fields ----

  --- Which kinds of line a record is: a set of the words in log_fields.rows.
  local function kinds_of(record)
    return { all = true, step = not record.final, last = record.final == true,
             judged = not record.final and record.valid_loss ~= nil, first = record.data ~= nil }
  end

  local function check_log(folder)
    local rows = {}
    for _, row in ipairs(log_fields.rows) do rows[row[1]] = row end
    for i, record in ipairs(log_of(folder)) do
      local kinds = kinds_of(record)
      for name, value in pairs(record) do
        local row, here = rows[name], false
        assert.is_truthy(row, name .. ": is not in log_fields.rows")
        for _, kind in ipairs(row[3]) do here = here or kinds[kind] end
        assert.is_true(here, name)
        assert.equal(row[2], row[2] == "integer" and math.type(value) or type(value), name)
      end
      for name, row in pairs(rows) do
        for _, kind in ipairs(row[3]) do
          if kinds[kind] and not row.may then
            assert.is_truthy(record[name] ~= nil, ("%s, line %d"):format(name, i))
          end
        end
      end
    end
  end

  it("has the fields of their table, and no other", function()
    support.shell(("head -16 %s > %s"):format(path "p.fasta", path "few.fasta"))
    check_log(run)
    check_log(train("masked", ("--data %s --steps 9 --eval-every 3 --bidirectional --patience 1 "
      .. "--ema 0.9 --threads 1"):format(path "p.fasta")))
    check_log(train("init", ("--data %s --init %s --freeze embedding --steps 3 --valid %s "
      .. "--threads 1"):format(path "p.fasta", path "masked", path "few.fasta")))
    check_log(train("timed", ("--data %s --minutes 0.005 --threads 1"):format(path "t.txt")))
  end)

  it("has that table in the reference", function()
    local text = support.read "bindings/README.md"
    assert.is_truthy(text:find(log_fields.markdown(), 1, true),
      "bindings/README.md: its table of fields must be\n" .. log_fields.markdown())
  end)

  it("is read by TensorBoard, where it is installed", function()
    local python = os.getenv "PF_PYTHON" or "python3"
    if support.shell(python .. " -c 'import tensorboard'") ~= 0 then return end
    support.write(path "read.py", [[
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1]); a.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in a.Scalars(tag)] for tag in a.Tags()["scalars"]}))
]])
    local code, out, err = support.shell(("%s %s %s"):format(python, path "read.py", run))
    assert.equal(0, code, err)
    local told, expected = pf.json.decode(out), {}
    for _, event in ipairs(read_events(run .. "/" .. EVENTS)) do
      for tag, value in pairs(event.scalars) do
        expected[tag] = expected[tag] or {}
        table.insert(expected[tag], { event.step, value })
      end
    end
    assert.same(expected, told)
  end)
end)
