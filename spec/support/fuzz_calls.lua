-- fuzz_calls.lua: run by the performer program: calls of everything that the library has, methods
-- too, with values that fit or don't, from a seed; under a budget of bytes and of work. arg: how
-- many, the seed, and a file that holds the call which is being made: after a crash it is there to
-- be made again. Works in an empty folder, and names no file outside it.
--
-- A call gives something, or raises an error that is a text in which the library speaks for itself:
-- never Lua's own words about a line of the library.
local core = require "performer.core"
local dice = require "dice" -- beside this file
local pf = require "performer"

local count, seed, path = ...
local BYTES, WORK = 192 << 20, 3000000

-- Not called: they end the process, begin the engine anew, wait, or take long by their nature.
local SKIPPED = { ["pf.exit"] = true, ["pf.open"] = true, ["pf.limit"] = true,
                  ["pf.bench_gemm"] = true, ["pf.attention.use_crossover"] = true }

local below, one_of = dice.below, dice.one_of

local PLAIN = { "nil", "true", "false", "0", "1", "-1", "2", "3", "2.5", "0/0", "math.huge",
  "1 << 62", "math.mininteger", "1e8", "''", "'a'", "'memory:a'", "'memory:run'", "('x'):rep(1000)",
  "'\\0'", "{}", "{ 1, 2, 3 }", "{ 2, 3 }", "{ { 1, 2 }, { 3, 4 } }", "{ a = 1 }", "type",
  "function(...) return ... end", "function() error {} end", "io.stderr", "coroutine.create(type)",
  "setmetatable({}, { __index = error })", "'softmax'", "'relu'", "'exact'", "'byte'", "'f32'" }

local OBJECTS = {
  tensor = { "pf.ones(2, 3)", "pf.zeros(0)", "pf.randn(1, 2, 4, 4)", "pf.tensor(1)",
             "pf.arange(4, { dtype = 'i32' })", "pf.randn(2, 3):transpose(0, 1)",
             "pf.tensor({ { 1, 2, 3 } }, { dtype = 'i32' })", "pf.zeros(2, 0, 3)",
             "pf.randn(3, { requires_grad = true })" },
  tape = { "pf.tape()" },
  module = { "model", "pf.nn.linear { from = 3, to = 2 }", "pf.nn.embedding { vocab = 4, dim = 3 }",
             "pf.nn.chain { pf.nn.rmsnorm { dim = 3 } }" },
  optimizer = { "pf.optim.adam(model, { lr = 0.1 })", "pf.optim.sgd(model, { lr = 1 })" },
  stream = { "model:stream()", "model:stream { batch = 2 }" },
  serving = { "model:serve()" },
  state = { "pf.attention.state { kernel = pf.kernel.relu {}, head_dim = 4 }",
            "model:state { batch = 1 }" },
  items = { "pf.attention.items { kernel = pf.kernel.relu { head_dim = 4 } }" },
  kernel = { "pf.kernel.relu { head_dim = 4 }", "pf.kernel.softmax { head_dim = 4, features = 4 }",
             "pf.kernel.custom { map = function(x) return x end }" },
  data = { "pf.data.open { path = 'text', length = 8 }" },
}

-- Names of options and of fields, as the tables have them.
local KEYS = { "lr", "path", "text", "seed", "batch", "length", "dtype", "model", "optimizer" }
for _, rows in ipairs { pf.layers(), pf.kinds(), pf.optimizers(), pf.ops() } do
  for _, row in pairs(rows) do
    for _, option in ipairs(type(row) == "table" and (row.options or row.attrs) or {}) do
      KEYS[#KEYS + 1] = option.name
    end
  end
end

local functions, methods = {}, {}

local seen = {}
local function walk(t, name)
  if seen[t] then return end
  seen[t] = true
  for key, value in pf.sorted(t) do
    local inner = ("%s.%s"):format(name, key)
    if type(value) == "function" and not SKIPPED[inner] then functions[#functions + 1] = inner end
    if type(value) == "table" and type(key) == "string" then walk(value, inner) end
  end
end
walk(pf, "pf")
for class in pf.sorted(OBJECTS) do
  for name in pf.sorted(core.methods("performer." .. class)) do
    methods[#methods + 1] = { class, name }
  end
end

-- ---- a call, as text ----

local classes = {}
for class in pf.sorted(OBJECTS) do classes[#classes + 1] = class end

local value

local function options(level)
  local words = {}
  for i = 1, below(4) do words[i] = ("%s = %s"):format(one_of(KEYS), value(level - 1)) end
  return "{ " .. table.concat(words, ", ") .. " }"
end

function value(level)
  local kind = below(10)
  if kind <= 4 then return one_of(PLAIN) end
  if kind <= 6 then return one_of(OBJECTS.tensor) end
  if kind <= 8 then return one_of(OBJECTS[one_of(classes)]) end
  return level > 0 and options(level) or "{}"
end

local function arguments()
  local words = {}
  for i = 1, below(5) - 1 do words[i] = value(2) end
  return table.concat(words, ", ")
end

local function call()
  if below(2) == 1 then return ("%s(%s)"):format(one_of(functions), arguments()) end
  local method = one_of(methods)
  local object = one_of(OBJECTS[method[1]])
  if below(20) == 1 then object = one_of(OBJECTS[one_of(classes)]) end
  return ("(%s):%s(%s)"):format(object, method[2], arguments())
end

-- ---- made ----

pf.open { threads = 1, seed = 5, log_level = "silent" }
local file = assert(io.open("text", "w"))
file:write(("some text that is read. "):rep(20))
file:close()
local trail = assert(io.open(path, "w"))
_ENV.pf, _ENV.model = pf, pf.nn.performer { vocab = 16, dim = 8, layers = 1, heads = 2,
                                            causal = true, kernel = { features = 8 } }

local function note(text)
  trail:seek("set", 0)
  trail:write(text, "\n") -- what stands behind the line is of longer ones before
  trail:flush()
end

local good, bad = 0, 0
local function tell(calls)
  print(("%d calls, %d good, %d bad"):format(calls, good, bad))
  io.stdout:flush()
end

for i = 1, tonumber(count) do
  dice.seed(tonumber(seed) * 1000003 + i)
  local text = call()
  note(text)
  pf.limit { bytes = BYTES, work = WORK }
  local fine, message = pcall(assert(load("return " .. text)))
  pf.limit()
  good = good + (fine and 1 or 0)
  local own = type(message) == "string" and message:find "performer/[%w_]+%.lua:%d+: attempt to"
  if not fine and (own or (type(message) ~= "string" and not text:find "error")) then
    bad = bad + 1
    print(("%s\n  %s"):format(text, tostring(message):match "[^\n]*"))
  end
  if i % 250 == 0 then collectgarbage() end
  if i % 100000 == 0 then tell(i) end
end
trail:close()
tell(count)
