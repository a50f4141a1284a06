--- pace.lua - how long a run has still to go: what its steps, its evaluations and its saves have
-- taken in this process, and so will take. Before the first evaluation one is reckoned by
-- its batches, of which each is a third of a step's: forward alone, not back and forth.
local Pace = {}
Pace.__index = Pace

local FORWARD = 1 / 3

--- settings: a run's (eval_every, valid_batches, accumulate; steps once they are known); batches:
-- of the whole held-out part, which is evaluated at the end (or settings.final_batches of them).
function Pace.new(settings, batches)
  return setmetatable({ settings = settings, batches = batches, steps = 0, stepping = 0,
                        evaluations = 0, evaluating = 0, other = 0 }, Pace)
end

--- A step took so long.
function Pace:step(seconds) self.steps, self.stepping = self.steps + 1, self.stepping + seconds end

--- Between two steps passed so much time; evaluated: with an evaluation, and what belongs to it.
function Pace:between(seconds, evaluated)
  if evaluated then
    self.evaluations, self.evaluating = self.evaluations + 1, self.evaluating + seconds
  else
    self.other = self.other + seconds
  end
end

--- Seconds of a batch that is evaluated.
local function batch_seconds(self)
  local s = self.settings
  if self.evaluations > 0 then return self.evaluating / self.evaluations / s.valid_batches end
  return FORWARD * self.stepping / self.steps / s.accumulate
end

--- Evaluations in passing behind `step`. At the last step there is one where the one of all rows,
-- which follows, is another.
local function evaluations_left(self, step)
  local s, whole = self.settings, self.settings.valid_batches == self.batches
  local n = (s.steps - 1) // s.eval_every - step // s.eval_every
  return math.max(0, n) + (whole and 0 or step < s.steps and 1 or 0)
end

--- Seconds from step `step` to the end, of which `batches` are left of the evaluation under way
-- (nil: none is); nil where the end is not known.
function Pace:left(step, batches)
  local s = self.settings
  if not s.steps or self.steps == 0 then return nil end
  local last = step == s.steps and batches and batches or s.final_batches or self.batches
  local judged = batch_seconds(self) * (evaluations_left(self, step) * s.valid_batches + last
    + (step < s.steps and batches or 0))
  return (s.steps - step) * (self.stepping + self.other) / self.steps + judged
end

return Pace
