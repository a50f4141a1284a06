-- commands_schedule_spec.lua - the learning rate of every step of train, by --schedule: its formula
-- and options, what becomes of it when a run goes on, is longer, or has its steps by the clock.
local commands = require "spec.support.commands"

local assert_sentence, exists, good, log_of = commands.assert_sentence, commands.exists,
  commands.good, commands.log_of
local losses, path, performer, train = commands.losses, commands.path, commands.performer,
  commands.train

local STEPS, WARMUP, LR = 20, 4, 0.01

--- How much of the fall between two steps is done.
local function done(step, first, last)
  return math.max(0, math.min(1, (step - first) / (last - first)))
end

-- Arguments, and the rate of a step behind the warm-up, as a share of --lr.
local CASES = {
  { "cosine", function(step)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done(step, WARMUP, STEPS)))
  end },
  { "linear --lr-floor 0.2",
    function(step) return 0.2 + 0.8 * (1 - done(step, WARMUP, STEPS)) end },
  { "constant", function() return 1 end },
  { "step", function(step) return 0.1 ^ ((step - WARMUP - 1) // 6) end },
  { "step --drop-every 5 --drop-factor 0.5 --lr-floor 0.3",
    function(step) return math.max(0.3, 0.5 ^ ((step - WARMUP - 1) // 5)) end },
  { "wsd", function(step) return 0.05 + 0.95 * (1 - math.sqrt(done(step, 16, STEPS))) end },
  { "wsd --cooldown 8 --cooldown-shape linear --lr-floor 0",
    function(step) return 1 - done(step, 12, STEPS) end },
}

-- What is said of a run that is made longer, from 20 steps to 40, and the rate of step 21.
local LONGER = {
  cosine = { "and falls to its end from there$", 0.00566 },
  linear = { "and falls to its end from there$", 0.00551 },
  constant = { "and stays there$", 0.01 },
  step = { "and is multiplied by 0%.1 every 12 steps after the warm%-up$", 0.001 },
  wsd = { "and falls from step 32 on; the fall had begun at step 16: a checkpoint from before it "
    .. "goes on as a run of 40 steps would have$", 0.01 },
}

local function run_of(name, arguments)
  return train(name, ("--data %s --steps %d --warmup %d --lr %g --log-every 1 --eval-every 10 "
    .. "--keep 9 --threads 1 --schedule %s"):format(path "t.txt", STEPS, WARMUP, LR, arguments))
end

describe("a schedule", function()
  setup(commands.start)
  teardown(commands.stop)

  it("gives every step its rate", function()
    for i, case in ipairs(CASES) do
      local log = log_of(run_of("formula" .. i, case[1]))
      for step = 1, STEPS do
        local share = step <= WARMUP and step / WARMUP or case[2](step)
        assert.near(LR * share, log[step].lr, 1e-12, case[1] .. ", step " .. step)
      end
    end
  end)

  it("goes on where a run stopped, and says where a longer one has it", function()
    for name, want in pairs(LONGER) do
      local run = run_of("whole_" .. name, name)
      good(("train --resume %s/step-10 --out %s --threads 1"):format(run, path("part_" .. name)))
      assert.equal(losses(run), losses(path("part_" .. name)))
      local _, err = good(("train --resume %s --steps 40 --threads 1"):format(run))
      local line = err:match "train: (the learning rate goes [^\n]+)"
      assert.matches(want[1], line)
      assert.matches(("to %g at step 21, where a run of 40 steps with a warm%%-up of %d has it")
        :format(want[2], WARMUP), line)
      assert.near(want[2], log_of(run)[21].lr, 1e-5)
    end
  end)

  it("lets wsd be lengthened from before its fall as if it had been longer from the start",
  function()
    local short = run_of("short", "wsd")
    local long = train("long", ("--data %s --steps 30 --warmup %d --lr %g --log-every 1 "
      .. "--eval-every 10 --threads 1 --schedule wsd"):format(path "t.txt", WARMUP, LR))
    local _, err = good(("train --resume %s/step-10 --out %s --steps 30 --threads 1"):format(short,
      path "longer"))
    assert.matches("and falls from step 24 on\n", err)
    assert.equal(losses(long), losses(path "longer"))
  end)

  it("begins once --minutes have fixed the steps", function()
    local run = train("minutes", ("--data %s --minutes 0.01 --log-every 1 --schedule linear "
      .. "--lr-floor 0 --threads 1"):format(path "t.txt"))
    local log = log_of(run)
    assert.equal(0, log[#log - 1].lr)
    assert.is_true(log[#log - 2].lr > 0)
  end)

  it("takes its own options alone, and good ones", function()
    for arguments, told in pairs {
      ["cosin"] = "no 'cosin' %(did you mean 'cosine'%?%)",
      ["cosine --cooldown 4"] = "%-%-cooldown is for %-%-schedule wsd; cosine has no such option",
      ["wsd --drop-every 4"] = "%-%-drop%-every is for %-%-schedule step",
      ["constant --lr-floor 0.5"] = "%-%-schedule cosine or linear or step or wsd; constant has",
      ["cosine --lr 1e30"] = "train: %-%-lr must be a number from 0 to 1000000, got 1e%+30",
      ["linear --lr-floor 2"] = "%-%-lr%-floor 2 is more than %-%-lr itself",
      ["step --drop-factor 2"] = "train: %-%-drop%-factor must be a number from 0 to 1, got 2",
      ["wsd --cooldown-shape sqr"] = "%-%-cooldown%-shape must be one of sqrt, linear, cosine",
    } do
      local code, _, err = performer(("train --data %s --steps 5 --out %s --schedule %s"):format(
        path "t.txt", path "never", arguments))
      assert.equal(2, code, arguments)
      assert_sentence(err, told)
      assert.is_false(exists(path "never"))
    end
  end)
end)
