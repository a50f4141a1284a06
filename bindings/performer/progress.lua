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

--- total: steps to come; live: stderr is a terminal; clock: a function giving seconds.
function Progress.new(options)
  return setmetatable({ total = options.total, live = options.live, clock = options.clock,
                        start = options.clock(), last = -math.huge, first = options.first or 0,
                        every = options.live and 0.1 or 10 }, Progress)
end

--- Shows step `step` with `parts`, a list of texts, when it is time (or `now`).
function Progress:show(step, parts, now)
  local time = self.clock()
  if not now and time - self.last < self.every then return end
  self.last = time
  local done = step - self.first
  local left = done > 0 and (time - self.start) / done * (self.total - step) or 0
  local line = ("step %d/%d  %s  left %s"):format(step, self.total, table.concat(parts, "  "),
                                                  duration(left))
  if self.live then
    io.stderr:write("\r", line, "\27[K")
  else
    io.stderr:write(line, "\n")
  end
  io.stderr:flush()
end

--- Ends the live line.
function Progress:finish()
  if self.live and self.last > -math.huge then io.stderr:write("\n") end
end

Progress.duration = duration

return Progress
