-- sandbox_grammar.lua: programs that nobody wrote, from a seed: statements of Lua and calls of the
-- library with values that fit, or don't.
local core = require "performer.core"
local dice = require "dice" -- beside this file
local pf = require "performer"

local MOST = 4 -- levels of blocks, of functions and of expressions

local below, one_of = dice.below, dice.one_of

local VALUES = { "nil", "true", "false", "0", "1", "-1", "2.5", "0/0", "math.huge", "1 << 62",
  "math.mininteger", "math.maxinteger", "1e8", "1000", "''", "'a'", "'abc'", "'__gc'", "'__mode'",
  "('x'):rep(1000)", "'%s'", "'(.-)*'", "'[a'", "{}", "{ 1, 2, 3 }", "{ a = 1 }", "print", "error",
  "pcall", "string.rep", "coroutine.yield", "setmetatable({}, meta)", "meta", "_G", "pf",
  "coroutine.create(print)", "coroutine.running()", "pf.ones(2, 3)", "pf.zeros(0)", "pf.tape()",
  "pf.arange(4, { dtype = 'i32' })", "pf.kernel.relu {}", "pf.nn.linear { from = 3, to = 2 }",
  "model", "model:stream { batch = 1 }",
  "pf.optim.sgd(model, { lr = 1 })", "pf.kernel.custom { map = function(x) return x end }",
  "pf.attention.state { kernel = pf.kernel.relu {}, batch = 1, heads = 1, head_dim = 4 }",
  "pf.randn(1, 1, 4, 4)", "{ kernel = pf.kernel.relu {} }", "'softmax'",
  "function(...) return ... end", "function() error({}) end", "function() while true do end end" }

local FUNCTIONS = {
  "string.find", "string.match", "string.gmatch", "string.gsub", "string.rep", "string.format",
  "string.pack", "string.unpack", "string.packsize", "string.byte", "string.char", "string.sub",
  "string.upper", "string.reverse", "table.concat", "table.insert", "table.remove", "table.move",
  "table.unpack", "table.sort", "table.pack", "utf8.char", "utf8.len", "utf8.codepoint",
  "utf8.offset", "utf8.codes", "coroutine.create", "coroutine.resume", "coroutine.wrap",
  "coroutine.close", "coroutine.status", "coroutine.yield", "pcall", "xpcall", "select",
  "tostring", "tonumber", "setmetatable", "getmetatable", "rawset", "rawget", "rawlen",
  "rawequal", "next", "load", "error", "assert", "collectgarbage", "type", "ipairs", "pairs",
  "os.date", "os.time", "math.random", "math.tointeger", "math.floor" }

local METHODS = { "rep", "find", "gsub", "format", "x" }

--- Every function of the library below `t`, under the name that reaches it.
local function walk(t, name, seen)
  if seen[t] then return end
  seen[t] = true
  for key, value in pf.sorted(t) do
    local inner = ("%s.%s"):format(name, key)
    if type(value) == "function" then FUNCTIONS[#FUNCTIONS + 1] = inner end
    if type(value) == "table" and type(key) == "string" then walk(value, inner, seen) end
  end
end

walk(pf, "pf", {})
for _, class in ipairs { "tensor", "tape", "module", "optimizer", "stream", "state", "items",
                         "kernel", "data" } do
  for name in pf.sorted(core.methods("performer." .. class)) do METHODS[#METHODS + 1] = name end
end

local EVENTS = { "__index", "__newindex", "__call", "__close", "__eq", "__lt", "__len", "__concat",
  "__tostring", "__pairs", "__add", "__gc", "__mode", "__metatable", "__name" }

local OPERATORS = { "+", "-", "*", "/", "//", "%", "^", "..", "==", "<", "<=", "and", "or", "&",
  "<<", ">>" }

local expression

local function arguments(level)
  local list = {}
  for i = 1, below(4) - 1 do list[i] = expression(level - 1) end
  return table.concat(list, ", ")
end

function expression(level)
  local kind = level <= 0 and below(4) or below(12)
  if kind <= 3 then return one_of(VALUES) end
  if kind == 4 then return "v" .. below(4) end
  if kind <= 8 then return ("%s(%s)"):format(one_of(FUNCTIONS), arguments(level)) end
  if kind == 9 then
    return ("(%s):%s(%s)"):format(expression(0), one_of(METHODS), arguments(level))
  end
  if kind == 10 then
    return ("(%s %s %s)"):format(expression(level - 1), one_of(OPERATORS), expression(level - 1))
  end
  if kind == 11 then return ("(%s)[%s]"):format(expression(level - 1), expression(0)) end
  return ("{ %s }"):format(arguments(level))
end

local function block(level, statement)
  local lines = {}
  for i = 1, below(4) do lines[i] = statement(level - 1) end
  return table.concat(lines, "\n")
end

local STATEMENTS = {
  function() return ("v%d = %s"):format(below(4), expression(2)) end,
  function() return ("pcall(%s, %s)"):format(one_of(FUNCTIONS), expression(2)) end,
  function() return ("pcall(function() v%d = %s end)"):format(below(4), expression(MOST)) end,
  function() return ("meta.%s = %s"):format(one_of(EVENTS), expression(1)) end,
  function()
    return ("pcall(function() meta.%s = %s end)"):format(one_of(EVENTS), expression(1))
  end,
  function() return ("_G[%s] = %s"):format(one_of { "'string'", "'pf'", "'x'", "'pcall'" },
                                           expression(1)) end,
  function(level, inner) return ("for i = 1, %s do\n%s\nend"):format(
    one_of { "3", "100", "1e9" }, block(level, inner)) end,
  function(level, inner) return ("while %s do\n%s\nend"):format(one_of { "v1", "true", "not v2" },
                                                                block(level, inner)) end,
  function(level, inner) return ("pcall(function(...)\n%s\nend, %s)"):format(block(level, inner),
                                                                            expression(1)) end,
  function(level, inner) return ("pcall(coroutine.wrap(function(...)\n%s\nend))"):format(
    block(level, inner)) end,
  function(level, inner) return ("xpcall(function()\n%s\nend, function() %s end)"):format(
    block(level, inner), "v3 = " .. expression(1)) end,
  function(level, inner) return ("do local c <close> = setmetatable({}, { __close = function()\n"
    .. "%s\nend })\n%s\nend"):format(block(level, inner), block(level, inner)) end,
  function(level, inner) return ("pcall(pf.nn.chain { { w = pf.ones(3), forward = function(_, x)\n"
    .. "%s\nreturn x end } }, pf.ones(2, 3))"):format(block(level, inner)) end,
}

local function statement(level)
  return STATEMENTS[level <= 0 and below(6) or below(#STATEMENTS)](level, statement)
end

--- The program of a seed.
return function(seed)
  dice.seed(seed)
  local lines = { "local meta, v1, v2, v3, v4 = {}", "local model = pf.nn.performer { vocab = 8, "
    .. "dim = 8, layers = 1, heads = 2, causal = true, kernel = { features = 8 } }" }
  for i = 3, 3 + below(6) do lines[i] = statement(MOST) end
  return table.concat(lines, "\n")
end
