-- performer/repl/init.lua: the prompt of `performer`. A session takes lines and gives what is to be
-- written: it knows no terminal, which is the console's (bindings/console.c).
local core = require "performer.core"
local chunk = require "performer.repl.chunk"
local complete = require "performer.repl.complete"
local help = require "performer.repl.help"
local hints = require "performer.repl.hints"
local history = require "performer.repl.history"
local show = require "performer.repl.show"
local trace = require "performer.repl.trace"
local util = require "performer.util"

local repl = {}

local TELL = 0.1 -- seconds after which a result says how long it took

local Session = {}
Session.__index = Session

--- A session. Options: call(handler, f, ...), as console.call; width(); colour; clock.
function repl.session(options)
  options = options or {}
  local names, at_first = {}, {} -- `local` ones of the outermost level; globals that are there
  for name in pairs(_G) do at_first[name] = true end
  local session = setmetatable({
    names = names, at_first = at_first, closing = {}, number = 0, lines = nil,
    call = options.call or function(handler, f, ...)
      local results = table.pack(xpcall(f, handler, ...))
      return results[1], false, table.unpack(results, 2, results.n)
    end,
    width = options.width or function() return 80 end,
    colour = options.colour, clock = options.clock or core.clock,
  }, Session)
  session.environment = setmetatable({}, { __index = _G, __newindex = function(t, key, value)
    if names[key] then rawset(t, key, value) else rawset(_G, key, value) end
  end })
  return session
end

local CODES = { error = 31, faint = 2, prompt = 1 }

function Session:paint(text, what)
  return self.colour and ("\27[%dm%s\27[0m"):format(CODES[what], text) or text
end

-- ---- running -------------------------------------------------------------------------

--- Results, or nil and the text of what went wrong: table.pack(...), nil, seconds. text: what is
--- run, where that was typed.
function Session:run(f, name, text)
  local begin = self.clock()
  local packed = table.pack(self.call(trace.handler(f), f))
  local seconds, interrupted = self.clock() - begin, self:paint("interrupted", "error")
  if packed[1] then
    if packed[2] then return nil, interrupted, seconds end -- io.read() only gives nil
    return table.move(packed, 3, packed.n, 1, { n = packed.n - 2 }), nil, seconds
  end
  local problem = packed[3]
  if trace.exit(problem) then self.exit = trace.exit(problem) end
  if self.exit then return nil, self.exit.message, seconds end
  local message, frames = trace.text(problem, name, self.width())
  message = packed[2] and interrupted or self:paint("error: ", "error") .. message
    .. hints.of_error(message, text or "", self.environment)
  return nil, message .. (frames and "\n" .. self:paint(frames, "faint") or ""), seconds
end

--- Closes what a `local x <close>` of before holds, last first.
function Session:close(names)
  local problems = {}
  for i = #self.closing, 1, -1 do
    local one = self.closing[i]
    if not names or names[one.name] then
      table.remove(self.closing, i)
      local meta = debug.getmetatable(one.value)
      local close = type(meta) == "table" and meta.__close
      local _, problem
      if close then _, problem = self:run(function() close(one.value) end, "close") end
      problems[#problems + 1] = problem
    end
  end
  return problems
end

--- Names that a chunk makes: what they held is closed before it runs.
function Session:declare(found)
  local again = {}
  for _, name in ipairs(found.names) do
    self.names[name], again[name] = true, true
  end
  return self:close(again)
end

function Session:watch_closing(found)
  for _, name in ipairs(found.closing) do
    local value = rawget(self.environment, name)
    if value then self.closing[#self.closing + 1] = { name = name, value = value } end
  end
end

--- The text of results; showing them is the user's code, too (__tostring).
function Session:show(results)
  if results.n == 0 then return nil end
  local shown, problem = self:run(function() return show.values(results, self.width()) end, "show")
  if results[1] ~= nil or results.n > 1 then rawset(self.environment, "_", results[1]) end
  return shown and shown[1] or problem
end

--- What is written of a text that is no Lua.
function Session:refuse(message, name, text)
  return self:paint("error: ", "error") .. trace.plain(message, name, text)
    .. hints.of_text(text)
end

--- Runs a chunk: what is to be written, and its results.
function Session:evaluate(text, timed)
  local name = ("input %d"):format(self.number)
  local f, found, more = chunk.compile(text, "=" .. name, self.environment)
  if not f then return self:refuse(found, name, text), nil, more end
  local parts = self:declare(found)
  local results, problem, seconds = self:run(f, text:find "\n" and "" or name, text)
  self:watch_closing(found)
  parts[#parts + 1] = results and self:show(results) or problem
  parts[#parts + 1] = results and hints.of_results(results, text, self.environment)
  if results and not timed and seconds > TELL then
    parts[#parts + 1] = self:paint(("%.2f s"):format(seconds), "faint")
  end
  return table.concat(parts, "\n"), results, false, seconds
end

-- ---- commands ------------------------------------------------------------------------

local function duration(seconds)
  if seconds >= 1 then return ("%.3g s"):format(seconds) end
  if seconds >= 1e-3 then return ("%.3g ms"):format(seconds * 1e3) end
  return ("%.3g us"):format(seconds * 1e6)
end

local commands = {}

--- What a command says that lacks its expression, or nil.
local function needs(name, text)
  if text:find "%S" then return nil end
  return ("%%%s takes what it is to run: %%%s x:softmax()"):format(name, name)
end

function commands.time(session, text)
  if needs("time", text) then return needs("time", text) end
  core.reset_peak()
  local before = core.memory().live
  local output, results, _, seconds = session:evaluate(text, true)
  if not results then return output end
  local text_of, bytes = duration(seconds), core.memory().peak - before
  if bytes > 1 << 16 then
    text_of = ("%s, %.1f MB of tensors at most"):format(text_of, bytes / 1048576)
  end
  return (output ~= "" and output .. "\n" or "") .. session:paint(text_of, "faint")
end

function commands.timeit(session, text)
  if needs("timeit", text) then return needs("timeit", text) end
  local name = ("input %d"):format(session.number)
  local f, message = chunk.compile(text, "=" .. name, session.environment)
  if not f then return session:refuse(message, name, text) end
  local times, total = {}, 0
  repeat
    local results, problem, seconds = session:run(f, name, text)
    if not results then return problem end
    times[#times + 1], total = seconds, total + seconds
  until #times >= 10000 or total > 1 and #times >= 3
  table.sort(times)
  return ("median %s, least %s of %d runs"):format(duration(times[(#times + 1) // 2]),
    duration(times[1]), #times)
end

function commands.who(session)
  local made = {}
  for name, value in pairs(session.environment) do made[name] = value end
  for name, value in pairs(_G) do
    if not session.at_first[name] then made[name] = value end
  end
  made._ = nil
  local lines = {}
  for _, name in ipairs(util.sorted_keys(made)) do
    local line = show.value(made[name], session.width()):gsub("\n.*", " ...")
    lines[#lines + 1] = ("%s = %s"):format(name, line)
  end
  return #lines > 0 and table.concat(lines, "\n") or "nothing was made yet"
end

function commands.history(session, text)
  if text == "off" or text == "on" then
    session.unkept = text == "off"
    return "what is typed from now on is " .. (session.unkept and "not kept" or "kept")
  end
  return "%history off: what is typed from now on is not kept; %history on: it is"
end

--- What a line that is no Lua asks for; nil: it is Lua.
function Session:command(line)
  local query = line:match "^%s*%?+(.*)$" or line:match "^%s*([%w_.:]+)%s*%?+%s*$"
  if query then return help.text(query, self.environment, self.width()) end
  local name, rest = line:match "^%s*%%(%a+)%s*(.*)$"
  if name then
    if not commands[name] then
      local near = core.nearest(name, { "time", "timeit", "who", "history" })
      return ("there is no %%%s%s; ? says what there is"):format(name,
        near and (" (did you mean %%%s?)"):format(near) or "")
    end
    return commands[name](self, rest)
  end
  local word = line:match "^%s*(%a+)%s*%(?%)?%s*$"
  if (word == "exit" or word == "quit") and self.environment[word] == nil then
    self.exit = { code = 0, message = "" }
    return ""
  end
  if word == "help" and self.environment.help == nil then
    return help.text("", self.environment, self.width())
  end
end

-- ---- lines ------------------------------------------------------------------------------

--- Takes a line; `waiting`: more were pasted behind it. Gives what is to be written, whether the
--- chunk goes on, and, once it is complete, the whole of it.
function Session:feed(line, waiting)
  local text = self.lines and self.lines .. "\n" .. line or line
  if not self.lines then
    if not line:find "%S" then return "", false end
    self.number = self.number + 1
    local output = self:command(line)
    if output then return output, false, line end
  end
  local left = self.lines and not line:find "%S" and not waiting
  if left then text = self.lines end
  local name = "=input " .. self.number
  local f, _, more = chunk.compile(text, name, self.environment)
  if not f and more and not left then
    self.lines = text
    return "", true
  end
  self.lines = nil
  return self:evaluate(text), false, text
end

--- Ctrl-C on a line: what was begun is left.
function Session:leave() self.lines = nil end

--- At Tab: what to insert, or nil and what to show.
function Session:complete(line, cursor)
  local text = (self.lines and self.lines .. "\n" or "") .. line:sub(1, cursor)
  return complete.at(text, self.environment, self.width())
end

-- ---- a terminal ------------------------------------------------------------------------

local PROMPT, MORE = "pf>", "  >"

local function write(text)
  if text == "" then return end
  io.stdout:write(text, "\n")
  io.stdout:flush()
end

local function greet(console)
  -- Nothing of the engine's is asked for: pf.open, which comes before all else, is the user's.
  write(("Performer %s. ? helps%s, Ctrl-D ends."):format(core.version,
    console.edits and ", Tab completes" or ""))
end

local function prompts(session, console)
  if not session.colour or not console.edits then return PROMPT .. " ", MORE .. " " end
  local form = "\1\27[%dm\1%s\1\27[0m\1 " -- the blank is last: libedit drops an escape that is
  return form:format(CODES.prompt, PROMPT), form:format(CODES.faint, MORE)
end

--- Runs a session on the console until it ends; its exit code.
function repl.run(console)
  local session = repl.session { call = console.call, colour = core.term.colour(1),
    width = function() return math.max(20, core.term.width(1)) end }
  local path, last = history.path(), nil
  for _, entry in ipairs(history.load(console, path)) do
    console.remember(entry)
    last = entry
  end
  greet(console)
  local first, more = prompts(session, console)
  local going_on = false
  local function at_tab(line, cursor) return session:complete(line, cursor) end
  while not session.exit and not core.stopped() do
    local line, why = console.read(going_on and more or first, at_tab)
    if line then
      local output, entry
      output, going_on, entry = session:feed(line, console.waiting())
      write(output)
      if entry and not session.unkept then last = history.keep(console, path, entry, last) end
    elseif why == "interrupted" or (why == "end" and going_on) then
      session:leave()
      going_on = false
      io.stdout:write(why == "end" and "\n" or "^C\n")
    else
      io.stdout:write(why == "end" and "\n" or "")
      break
    end
  end
  for _, problem in ipairs(session:close()) do write(problem) end
  return session.exit and session.exit.code or 0
end

return repl
