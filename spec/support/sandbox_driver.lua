-- sandbox_driver.lua: run by the performer program, in one process: strangers' scripts, each in a
-- sandbox of its own on this engine, and after each of them a look at what is the host's. A line
-- "ok NAME" or "not ok NAME: why" for each; so that the last line names the one that crashed, it
-- says "run NAME" before. arg: the folder of this file; "table", or "grammar" or "same" (the
-- library's functions held against Lua's own), how many, and a seed.
local core = require "performer.core"
local lfs = require "lfs"
local pf = require "performer"
local run = require "performer.run"

local folder, which, count, seed = ...
package.path = folder .. "/?.lua;" .. package.path

local GRACE = 0.25 -- seconds over the deadline ...
local SLOW = (os.getenv "PF_BUILD" or ""):find "asan" -- each step takes several times as long
local NOISE = SLOW and 10 or 2 -- ... and what a busy machine may add
local SCRATCH = 1 << 20 -- bytes that the engine keeps for its next call, of all scripts together
local ATTACK = "memory:attack.lua" -- the host's file
local failures = 0

-- ---- the host's ----

pf.open { threads = 1, seed = 5 }
local model = pf.nn.performer { vocab = 16, dim = 16, layers = 1, heads = 2, causal = true,
                                kernel = { features = 16 } }
local ids = pf.tensor({ { 1, 2, 3, 4, 5 } }, { dtype = "i32" })

local function bits() return model(ids):tobytes() end

local before = bits()
collectgarbage()
local held = pf.memory().live

--- What is wrong with the host's things; nil: nothing.
local function damage()
  if bits() ~= before then return "the host's model gives other numbers" end
  collectgarbage()
  local now = pf.memory().live
  if now > held + SCRATCH then return ("%d bytes are held that were not"):format(now - held) end
end

-- ---- one script ----

local WORDS = { PF_ELIMIT = "time", PF_ENOMEM = "memory" }

--- How it ended, in one of the attacks' words, and what it said.
local function attempt(text, limits)
  local began, os_began = pf.clock(), os.clock()
  assert(pf.file.write(ATTACK, "local pf = require 'performer'; " .. text))
  local ok, message, code, usage = run { path = ATTACK, sandbox = true, bytes = limits.bytes,
                                         seconds = limits.seconds, work = limits.work }
  if ok then usage, message = message, "" end
  local over = math.min(pf.clock() - began, os.clock() - os_began) - (limits.seconds or math.huge)
  return ok and "fine" or WORDS[code] or type(code) == "number" and "error" or code, message,
    { over = over, peak = usage.peak }
end

local function judge(ends, text, limits)
  local ended, message, measured = attempt(text, limits)
  if not (" " .. ends .. " "):find(" " .. ended .. " ", 1, true) then
    return ("ended by %s, not by %s: %s"):format(ended, ends, message)
  end
  if measured.over > GRACE + NOISE then return ("%.2f seconds over"):format(measured.over) end
  if limits.bytes and measured.peak > limits.bytes then
    return ("held %d bytes of %d"):format(measured.peak, limits.bytes)
  end
  return damage()
end

local function check(name, ends, text, limits)
  print("run " .. name)
  io.stdout:flush()
  local why = judge(ends, text, limits)
  if why then failures = failures + 1 end
  print(why and ("not ok %s: %s"):format(name, why) or "ok " .. name)
end

-- ---- all of them ----

--- The binding's files of this folder as bytecode in another: a sandbox opens a third sooner.
local function compile(from, to)
  assert(lfs.mkdir(to))
  for name in lfs.dir(from) do
    if name:find "%.lua$" then
      local file <close> = assert(io.open(from .. name))
      local text = assert(load(file:read "a", ("@%s/%s"):format(to, name)))
      local made <close> = assert(io.open(("%s/%s"):format(to, name), "wb"))
      made:write(string.dump(text))
    end
  end
end

--- Thousands of sandboxes open from bytecode: what is read as text is the same in each of them.
local function open_sooner()
  local home = package.searchpath("performer", package.path):match "^(.*/)init%.lua$"
  local place = os.tmpname()
  os.remove(place)
  assert(lfs.mkdir(place))
  compile(home, place .. "/performer")
  core.home(place .. "/performer/")
  return function() os.execute("rm -rf " .. place) end
end

--- The same calls with Lua's own functions, here, and with those of a bounded state.
local function same()
  local path = folder .. "/sandbox_same.lua"
  local own, bounded = os.tmpname(), os.tmpname()
  local args = { bounded, count, seed }
  assert(loadfile(path))(own, count, seed)
  assert(run { path = path, args = args })
  local i, told = 0, true
  local lines = io.lines(bounded)
  for line in io.lines(own) do
    i = i + 1
    local other = lines()
    if line ~= other and told then
      failures, told = failures + 1, false
      print(("not ok line %d: Lua: %s; bounded: %s"):format(i, line, other))
    end
  end
  if lines() then failures = failures + 1 end
  os.remove(own)
  os.remove(bounded)
  print(("%d results"):format(i))
end

if which == "same" then
  same()
elseif which == "grammar" then
  local grammar = require "sandbox_grammar"
  local done = open_sooner()
  for i = 1, tonumber(count) do
    local text = grammar(math.tointeger(seed) + i)
    check("program " .. i, "fine error time memory", text, { seconds = 0.05, bytes = 24 << 20,
                                                             work = 200000 })
  end
  done()
else
  local attacks = require "sandbox_attacks"
  for _, row in ipairs(attacks) do
    local limits = {}
    for key, value in pairs(attacks.LIMITS) do limits[key] = value end
    if not row[2]:find "time" then limits.seconds = 60 end -- not for want of time
    for key, value in pairs(row[4] or {}) do limits[key] = value end
    if not count or row[1]:find(count, 1, true) then check(row[1], row[2], row[3], limits) end
  end
end
print(("%d failed"):format(failures))
