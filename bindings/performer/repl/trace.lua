-- performer/repl/trace.lua: what went wrong, in a few lines: the message, and the calls that led
-- there as far as they are the user's.
local core = require "performer.core"
local show = require "performer.repl.show"

local trace = {}

local MOST = 12 -- calls that are told

local home = debug.getinfo(1, "S").source:match "^(@.*performer/)repl/[^/]*$"

local function is_ours(info)
  return home and info.source:sub(1, #home) == home
end

--- The calls above the chunk `f` and itself, innermost first, without ours and Lua's own.
local function frames_above(f)
  local frames, level = {}, 3
  while true do
    local info = debug.getinfo(level, "Slnf")
    if not info then break end
    if info.currentline > 0 and not is_ours(info) then
      frames[#frames + 1] = { place = ("%s:%d"):format(info.short_src, info.currentline),
                              name = info.func ~= f and info.name or nil }
    end
    if info.func == f then break end
    level = level + 1
  end
  return frames
end

--- A message handler for what runs f.
function trace.handler(f)
  return function(problem)
    return { problem = problem, frames = type(problem) == "string" and frames_above(f) or {} }
  end
end

--- What pf.exit threw, or a command: { code, message }.
function trace.exit(thrown)
  local problem = type(thrown) == "table" and thrown.problem
  local code = type(problem) == "table" and rawget(problem, "code")
  if math.type(code) ~= "integer" then return nil end
  return { code = code, message = tostring(rawget(problem, "message") or "") }
end

--- A message without the place where only one line can be meant.
function trace.plain(message, name, text)
  if text and text:find "\n" then return message end
  local prefix = name .. ":1: "
  if name ~= "" and message:sub(1, #prefix) == prefix then return message:sub(#prefix + 1) end
  return message
end

local function frames_text(frames, name)
  local lines = {}
  if #frames == 1 and frames[1].place:match "^(.*):%d+$" == name then return nil end
  for i, frame in ipairs(frames) do
    if i > MOST then
      lines[#lines + 1] = ("  ... %d more"):format(#frames - MOST)
      break
    end
    lines[#lines + 1] = "  " .. frame.place .. (frame.name and " in " .. frame.name or "")
  end
  return #frames > 1 and table.concat(lines, "\n") or nil
end

--- The text of what was thrown, and of the calls that led there or nil. name: of the chunk, where
--- it is one line.
function trace.text(thrown, name, width)
  local problem, frames = thrown, {}
  if type(thrown) == "table" and thrown.frames then
    problem, frames = thrown.problem, thrown.frames
  end
  if type(problem) ~= "string" then return show.value(problem, width) end
  return core.term.plain(trace.plain(problem, name), true), frames_text(frames, name)
end

return trace
