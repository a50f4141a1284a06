--- progress.lua - the live line of a long run: rewritten in place on a terminal, a plain
-- line every few seconds when piped (no escape, no carriage return). Always on stderr.
local Progress = {}
Progress.__index = Progress

local function duration(seconds)
  seconds = math.max(0, math.floor(seconds + 0.5))
  if seconds < 60 then return seconds .. "s" end
  if seconds < 3600 then return ("%dm%02ds"):format(seconds // 60, seconds % 60) end
  return ("%dh%02dm"):format(seconds // 3600, seconds % 3600 // 60)
end

--- total: steps in all (nil: not known yet); live: stderr is a terminal; clock: a function
-- giving seconds; first: steps done before; width: a function giving the terminal's columns;
-- name: what is counted ("step"); late: nothing is shown before it has taken a while.
function Progress.new(options)
  return setmetatable({ total = options.total, live = options.live, clock = options.clock,
                        start = options.clock(), first = options.first or 0,
                        last = options.late and options.clock() or -math.huge,
                        width = options.width, name = options.name or "step",
                        every = options.live and 0.1 or 10 }, Progress)
end

--- Cuts the line to `width` columns: a longer one would wrap, and the next could not cover it.
local function fitted(line, width)
  local length = utf8.len(line)
  if not length or length <= width then return line end
  return line:sub(1, utf8.offset(line, width + 1) - 1)
end

--- Shows step `step` with `parts`, a list of texts, when it is time (or `now`).
function Progress:show(step, parts, now)
  local time = self.clock()
  if not now and time - self.last < self.every then return end
  self.last = time
  local done = step - self.first
  local words = { self.total and ("%s %d/%d"):format(self.name, step, self.total)
    or ("%s %d"):format(self.name, step) }
  for _, part in ipairs(parts) do words[#words + 1] = part end
  if self.total and done > 0 then
    local left = (time - self.start) / done * (self.total - step)
    words[#words + 1] = "left " .. duration(left)
  end
  local line = table.concat(words, "  ")
  if self.live then
    io.stderr:write("\r", fitted(line, (self.width and self.width() or 80) - 1), "\27[K")
    self.open = true
  else
    io.stderr:write(line, "\n")
  end
  io.stderr:flush()
end

--- Ends the live line, so that what follows stands on a line of its own.
function Progress:finish()
  if self.open then io.stderr:write("\n") end
  self.open = false
end

Progress.duration = duration

return Progress
