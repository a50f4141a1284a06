-- sandbox_same.lua: calls of Lua's functions from a seed, and everything that they give, into a
-- file. The same chunk runs with Lua's own functions and with those that pay for what they do
-- (bounded.h); the two files have to be equal. arguments: the file, how many, the seed.
local path, count, seed = ...
local out = assert(io.open(path, "w"))
local state = math.tointeger(tonumber(seed))

local function below(n)
  state = state * 6364136223846793005 + 1442695040888963407
  return ((state >> 33) % n) + 1
end

local function one_of(list) return list[below(#list)] end

local function several(list, most)
  local words = {}
  for i = 1, below(most + 1) - 1 do words[i] = one_of(list) end
  return table.concat(words)
end

-- ---- telling ----

local function text_of(value)
  if type(value) == "table" then
    local words = {}
    for i = -1, 12 do
      local entry = rawget(value, i)
      words[#words + 1] = type(entry) == "table" and "{...}" or tostring(entry)
    end
    return "{" .. table.concat(words, " ") .. "}"
  end
  if type(value) == "string" then return ("%q"):format(value) end
  if math.type(value) == "float" then return ("%a"):format(value) end
  return (tostring(value):gsub(": 0x%x+", ""))
end

--- What a call gives or throws; in a complaint the function's name and the argument's number are
-- left out: Lua looks for the name in its libraries, and 5.4.4 and 5.4.7 count two of them apart.
local function tell(what, f, ...)
  local results = table.pack(pcall(f, ...))
  for i = 1, results.n do results[i] = text_of(results[i]) end
  local line = table.concat(results, " ", 1, results.n)
  if results[1] == "false" then line = line:gsub("bad argument #%d to '[^']*'", "bad argument") end
  out:write(what, " ", line, "\n")
end

-- ---- patterns ----

local PARTS = { "a", "b", "ab", ".", "%a", "%d", "%s", "%w", "%x", "%u", "%l", "%p", "%c", "%g",
  "%A", "%S", "%W", "[ab]", "[^a]", "[a-c]", "[%a%-]", "[]]", "[^]]", "[a-]", "[%]x]", "(", ")",
  "()", "(a)", "%1", "%2", "%0", "%b()", "%bab", "%f[a]", "%f[%w]", "%f[^%w]", "%", "[", "]", "^",
  "$", "*", "+", "-", "?", "%%", "%.", "%z", "\0", "%b", "%f", "[a", "[%", "x", "(.-)", "(%w+)",
  "%s*" }
local TEXTS = { "a", "b", "c", "x", " ", "1", "(", ")", "A", "%", "-", ".", "\0", "\200", "ab", "]",
  "[", "aaa", "ba" }
local WITH = { "x", "%0", "%1", "%2", "<%0>", "%%", "%", "%a", "", "%9", "%1%1",
  function(_, second) return second end, { a = "1", b = true, ab = 2 },
  function(x) if x == "a" then return {} end end, 5, function() return false end }

local function all_matches(text, pattern, from)
  local found = {}
  for a, b, c in string.gmatch(text, pattern, from) do
    found[#found + 1] = ("%s,%s,%s"):format(a, b, c)
    if #found > 50 then break end
  end
  return table.concat(found, ";")
end

local function a_pattern()
  local pattern, text = several(PARTS, 6), several(TEXTS, 12)
  local from = ({ nil, 1, -3, 5, 0, 100, -100 })[below(7)]
  tell("find", string.find, text, pattern, from)
  tell("match", string.match, text, pattern, from)
  tell("plain", string.find, text, pattern, from, true)
  tell("gmatch", all_matches, text, pattern, from)
  tell("gsub", string.gsub, text, pattern, one_of(WITH), ({ nil, 0, 1, 2, -1 })[below(5)])
end

-- ---- tables ----

local NUMBERS = { 1, 2, 3, 0, -1, math.maxinteger, math.mininteger, 5, 7, 2 ^ 53, "2", "x", 1.5 }

local function a_table()
  local t = {}
  for i = 1, below(7) - 1 do t[i] = below(5) end
  if below(8) > 1 then return t end
  return setmetatable(t, { __len = function() return 4 end,
    __index = function(_, i) return i <= 4 and i or nil end,
    __newindex = function(own, i, value) rawset(own, i, value) end })
end

--- Is it so far from one number to the other that Lua would go for hours?
local function is_far(a, b)
  a, b = tonumber(a or 1), tonumber(b or 1)
  return not a or not b or math.abs((a + 0.0) - b) > 1000
end

local function a_call_of_table()
  local name = one_of { "insert", "remove", "move", "concat", "unpack", "sort", "pack" }
  local t, args = a_table(), {}
  for i = 1, below(5) - 1 do args[i] = one_of(NUMBERS) end
  if name == "concat" and below(2) == 1 then args[1] = "," end
  if name == "sort" then
    args = { ({ nil, function(a, b) return a > b end, function() return true end, 5 })[below(4)] }
  end
  if name == "move" and is_far(args[1], args[2]) then return end
  if name == "unpack" and is_far(args[1], args[2]) then return end
  if name == "concat" and is_far(args[2], args[3]) then return end
  if name == "move" and below(3) == 1 then args[4] = a_table() end
  tell(name, table[name], t, table.unpack(args, 1, 4))
  tell("then", function() return t, args[4] end)
end

-- ---- the rest ----

local function others()
  for _, args in ipairs { { "x", 3 }, { "x", 0 }, { "", 5 }, { "ab", 3, "," }, { "", 3, "," },
    { "x", -1 }, { "x", 1, ",," }, { "x" }, {}, { 5, 2 }, { "x", 1 << 62 }, { "xx", 1 << 62 } } do
    tell("rep", string.rep, table.unpack(args))
  end
  for _, name in ipairs { "insert", "remove", "move", "concat", "unpack", "sort" } do
    for _, odd in ipairs { 5, "x", false, print } do tell(name, table[name], odd, 1, 1, 1) end
    tell(name, table[name])
  end
  tell("pack", string.pack, "i4c10s1z", 1, "a", "b", "c")
  tell("format", string.format, "%5.2f %s %q", 1, true, "x")
  tell("utf8", utf8.len, "a\u{20ac}b", 2)
end

local function of_coroutines()
  local co = coroutine.create(function(a, b)
    coroutine.yield(a + b)
    error { 5 }
  end)
  tell("resume", coroutine.resume, co, 1, 2)
  tell("throws", coroutine.resume, co)
  tell("dead", coroutine.resume, co)
  tell("status", coroutine.status, co)
  tell("close", coroutine.close, co)
  local w = coroutine.wrap(function() coroutine.yield(1) error "x" end)
  for _ = 1, 3 do tell("wrap", w) end
  local closing = coroutine.create(function()
    local _ <close> = setmetatable({}, { __close = function() error "in close" end })
    coroutine.yield(1)
  end)
  coroutine.resume(closing)
  for _ = 1, 2 do tell("closing", coroutine.close, closing) end
  for _, odd in ipairs { 5, "x", false } do
    tell("odd", coroutine.resume, odd)
    tell("odd", coroutine.create, odd)
    tell("odd", coroutine.close, odd)
  end
  tell("main", coroutine.close, coroutine.running())
  local itself
  itself = coroutine.create(function()
    tell("itself", coroutine.resume, itself)
    tell("itself", coroutine.close, itself)
  end)
  tell("outside", coroutine.resume, itself)
  tell("thrown in wrap", coroutine.wrap(function()
    local _ <close> = setmetatable({}, { __close = function(_, why) tell("why", error, why) end })
    error "y"
  end))
  tell("counts", coroutine.wrap(function(...) return select("#", ...) end), 1, nil, nil)
end

local function of_xpcall()
  local co = coroutine.wrap(function()
    return xpcall(function(...)
      coroutine.yield(1)
      return ...
    end, print, 7, 8)
  end)
  co()
  tell("yields", co)
  tell("handled", xpcall, error, function(m) return m .. "!" end, "z")
  tell("no handler", xpcall, error)
  tell("none at all", xpcall)
  tell("throws again", xpcall, error, function() error "again" end)
  tell("arguments", xpcall, function(...) return ... end, print, 1, nil, 3)
  tell("of the handler", xpcall, error, function(...) return select("#", ...) end)
end

for _ = 1, tonumber(count) do
  a_pattern()
  a_call_of_table()
end
others()
of_coroutines()
of_xpcall()
out:close()
