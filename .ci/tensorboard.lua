-- tensorboard.lua - a small run's events, as TensorBoard's reader has them: the tags, steps and
-- values of log.csv, and of the last record, which log.jsonl alone has beside them.
-- Ends with one line "N passed, N failed".  performer .ci/tensorboard.lua PYTHON
package.path = package.path .. ";scripts/?.lua"
local log_fields = require "kit.log_fields"
local pf = require "performer"

local python, build = arg[1], os.getenv "PF_BUILD" or "build/release"
local passed, failed = 0, 0

local function check(what, good)
  if good then passed = passed + 1 else
    failed = failed + 1
    io.stderr:write("tensorboard: ", what, "\n")
  end
end

local READ = [[
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
a.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in a.Scalars(tag)] for tag in a.Tags()["scalars"]}))
]]

--- What a program prints, or the end of this one with what it said.
local function output(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  if pipe:close() then return text end
  error("failed: " .. command)
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  assert(file:close())
end

--- The lines of a file.
local function lines_of(path)
  local list = {}
  for line in assert(io.open(path)):lines() do list[#list + 1] = line end
  return list
end

--- An event holds 24 bits of a number, log.csv so many digits: rounded twice, the last bit may
-- differ.
local function is_near(a, b) return a and math.abs(a - b) <= 2 ^ -22 * math.abs(b) end

--- { [tag] = { { step, value } ... } } of a run's log.
local function logged(run)
  local tags, expected = {}, {}
  for _, row in ipairs(log_fields.rows) do tags[row[1]] = row.tag end
  local function add(tag, step, value)
    if not tag or not value then return end
    expected[tag] = expected[tag] or {}
    table.insert(expected[tag], { step, value })
  end
  local lines, names = lines_of(run .. "/log.csv"), {}
  for name in lines[1]:gmatch "[^,]+" do names[#names + 1] = name end
  for i = 2, #lines do
    local cells, at = {}, 0
    for cell in (lines[i] .. ","):gmatch "([^,]*)," do
      at = at + 1
      cells[names[at]] = tonumber(cell)
    end
    for _, name in ipairs(names) do add(tags[name], math.tointeger(cells.step), cells[name]) end
  end
  local records = lines_of(run .. "/log.jsonl")
  local last = pf.json.decode(records[#records])
  for _, scalar in ipairs(log_fields.scalars(last)) do add(scalar[1], last.step, scalar[2]) end
  return expected
end

local function main(folder)
  local text = {}
  for i = 1, 400 do text[i] = ("line %d of what the run reads, %d.\n"):format(i, i * i % 97) end
  write(folder .. "/t.txt", table.concat(text))
  write(folder .. "/read.py", READ)
  local run = folder .. "/run"
  output(("%s/bin/performer train %s/t.txt --out %s --tensorboard --steps 40 --eval-every 10 "
    .. "--log-every 3 --dim 16 --layers 1 --heads 2 --features 8 --length 32 --threads 1 2>&1")
    :format(build, folder, run))
  local told = pf.json.decode(output(("'%s' %s/read.py %s"):format(python, folder, run)))
  local expected = logged(run)
  for tag, points in pf.sorted(expected) do
    local found = told[tag] or {}
    check(("%s: %d points, and the log has %d"):format(tag, #found, #points), #found == #points)
    for i, point in ipairs(points) do
      local step, value = table.unpack(found[i] or {})
      check(("%s, point %d: step %s %s, and the log has step %s %s"):format(tag, i, step, value,
        point[1], point[2]), step == point[1] and is_near(value, point[2]))
    end
  end
  for tag in pf.sorted(told) do check(tag .. ": the log has no such", expected[tag]) end
end

local folder = os.tmpname()
os.remove(folder)
assert(os.execute(("mkdir -p '%s'"):format(folder)))
local through, problem = xpcall(main, debug.traceback, folder)
check(problem, through)
os.execute(("rm -rf '%s'"):format(folder))
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0 and 0 or 1)
