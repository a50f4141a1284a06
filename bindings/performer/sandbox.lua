-- performer/sandbox.lua: what a stranger's script may name. Everything is allowed by name: what is
-- not in these lists is not there, so that a new function is none of the sandbox's until somebody
-- has thought about it.
local choices = require "performer.choices"
local util = require "performer.util"

local LIBRARIES = {
  base = { "_VERSION", "assert", "error", "ipairs", "next", "pairs", "pcall", "print", "rawequal",
           "rawget", "rawlen", "select", "tonumber", "tostring", "type", "xpcall" },
  string = { "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "pack",
             "packsize", "rep", "reverse", "sub", "unpack", "upper" },
  table = { "concat", "insert", "move", "pack", "remove", "sort", "unpack" },
  math = { "abs", "acos", "asin", "atan", "ceil", "cos", "deg", "exp", "floor", "fmod", "huge",
           "log", "max", "maxinteger", "min", "mininteger", "modf", "pi", "rad", "random",
           "randomseed", "sin", "sqrt", "tan", "tointeger", "type", "ult" },
  utf8 = { "char", "charpattern", "codepoint", "codes", "len", "offset" },
  coroutine = { "close", "create", "isyieldable", "resume", "running", "status", "wrap", "yield" },
  os = { "clock", "date", "difftime", "time" },
}

--- What of performer's own strangers don't get: it is the program's, the machine's or the engine's.
local WITHHELD = { "open", "limit", "reset_peak", "interrupted", "term", "bench_gemm" }

--- Copies of these names, so that what a script does to its libraries touches nobody else's.
local function pick(from, names)
  local to = {}
  for _, name in ipairs(names) do to[name] = from[name] end
  return to
end

--- The basic functions, and which libraries beside them a text names; nil: all.
local function chosen(text)
  local names = util.sorted_keys(LIBRARIES)
  if text == nil then return names end
  local found = { "base" }
  for word in text:gmatch "[^%s,]+" do
    if not LIBRARIES[word] then
      util.fail("script: there is no library '%s' for a sandbox%s", word,
        choices.near(word, names))
    end
    found[#found + 1] = word
  end
  return found
end

--- performer as strangers have it.
local function own_performer(pf, own)
  local copy = {}
  for name, value in next, pf do copy[name] = value end
  for _, name in ipairs(WITHHELD) do copy[name] = nil end
  copy.json = util.copy(pf.json)
  copy.json.list = own.guard_list(pf.json.list)
  return util.namespace(copy, "performer", require("performer.words").pf)
end

--- What the state's own globals keep for the binding's files, which go on in them.
local function strip_globals(own)
  local function refuse(path)
    return nil, ("%s: a sandboxed script opens no files"):format(tostring(path)), 13
  end
  local globals = _G
  globals.io = { open = refuse }
  globals.os = { clock = os.clock, time = os.time, date = os.date, tmpname = refuse,
                 remove = refuse, rename = refuse, execute = refuse }
  for _, name in ipairs { "setmetatable", "getmetatable", "rawset" } do
    globals[name] = own[name]
  end
  for _, name in ipairs { "debug", "package", "dofile", "loadfile", "load", "require" } do
    globals[name] = nil
  end
  globals.string.dump = nil
end

--- The environment; libraries: a text with their names, nil for all; own: what C has for it.
return function(pf, libraries, own)
  local env = {}
  for _, name in ipairs(chosen(libraries)) do
    local from = name == "base" and _G or _G[name]
    if name == "base" then
      for key, value in pairs(pick(from, LIBRARIES.base)) do env[key] = value end
    else
      env[name] = pick(from, LIBRARIES[name])
    end
  end
  local performer = own_performer(pf, own)
  env._G, env.performer = env, performer
  env.setmetatable, env.getmetatable, env.rawset = own.setmetatable, own.getmetatable, own.rawset
  env.load, env.require = own.loader(env), own.requirer(performer)
  env.collectgarbage = own.collectgarbage
  strip_globals(own)
  return env
end
