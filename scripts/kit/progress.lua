--- progress.lua - the live line of a long run: rewritten in place on a terminal, a plain
-- line every few seconds when piped (no escape, no carriage return); and lines that stay. Always on
-- stderr.
local Progress = {}
Progress.__index = Progress

local function duration(seconds)
  seconds = math.max(0, math.floor(seconds + 0.5))
  if seconds < 60 then return seconds .. "s" end
  if seconds < 3600 then return ("%dm%02ds"):format(seconds // 60, seconds % 60) end
  return ("%dh%02dm"):format(seconds // 3600, seconds % 3600 // 60)
end

--- silent: nothing is shown; total: steps in all (nil: not known yet); live: stderr is a terminal;
-- clock: a function giving seconds; first: steps done before; width: a function giving the
-- terminal's columns; name: what is counted ("step"); late: nothing is shown before it has taken a
-- while; left: a function(step, ...) giving the seconds to the end (nil: by the steps so far); out:
-- a file to write to, instead of stderr.
function Progress.new(options)
  return setmetatable({ silent = options.silent, total = options.total,
                        live = options.live, clock = options.clock, start = options.clock(),
                        first = options.first or 0,
                        last = options.late and options.clock() or -math.huge,
                        width = options.width, name = options.name or "step",
                        left = options.left, out = options.out or io.stderr,
                        every = options.live and 0.1 or 10 }, Progress)
end

--- Cuts the line to `width` columns: a longer one would wrap, and the next could not cover it.
local function fitted(line, width)
  local length = utf8.len(line)
  if not length or length <= width then return line end
  return line:sub(1, utf8.offset(line, width + 1) - 1)
end

--- Seconds to the end as the steps so far tell; nil: they don't.
local function by_steps(self, step, time)
  local done = step - self.first
  return self.total and done > 0 and (time - self.start) / done * (self.total - step) or nil
end

--- Shows step `step` with `parts`, a list of texts, when it is time; what follows goes to `left`.
function Progress:show(step, parts, ...)
  local time = self.clock()
  if self.silent or time - self.last < self.every then return end
  self.last = time
  local words = { self.total and ("%s %d/%d"):format(self.name, step, self.total)
    or ("%s %d"):format(self.name, step) }
  for _, part in ipairs(parts) do words[#words + 1] = part end
  local left
  if self.left then left = self.left(step, ...) else left = by_steps(self, step, time) end
  if left then words[#words + 1] = "left " .. duration(left) end
  local line = table.concat(words, "  ")
  if self.live then
    self.out:write("\r", fitted(line, (self.width and self.width() or 80) - 1), "\27[K")
    self.open = true
  else
    self.out:write(line, "\n")
  end
  self.out:flush()
end

--- A line that stays, above the live one.
function Progress:note(line)
  if self.silent then return end
  if self.live then
    self.out:write("\r", fitted(line, (self.width and self.width() or 80) - 1), "\27[K\n")
    self.open = false
  else
    self.out:write(line, "\n")
  end
  self.out:flush()
end

--- Ends the live line, so that what follows stands on a line of its own.
function Progress:finish()
  if self.open then self.out:write("\n") end
  self.open = false
end

Progress.duration = duration

return Progress
