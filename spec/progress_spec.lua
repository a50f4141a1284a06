-- progress_spec.lua - what a long run shows: the live line and the lines that stay, on a terminal
-- and in a pipe; and the time that it has still to go, evaluations counted.
local Pace = require "kit.pace"
local Progress = require "kit.progress"
local commands = require "spec.support.commands"
local support = require "spec.support"

describe("progress", function()
  --- What f(progress, tick) writes to stderr; tick(seconds) moves the clock.
  local function written(options, f)
    local now, parts = 0, {}
    options.clock = function() return now end
    options.width = function() return 60 end
    options.out = { flush = function() end }
    function options.out:write(...)
      for _, text in ipairs { ... } do parts[#parts + 1] = text end
      return self
    end
    f(Progress.new(options), function(seconds) now = now + seconds end)
    return table.concat(parts)
  end

  it("leaves lines above the live one", function()
    local text = written({ live = true, total = 9, left = function() return 61 end },
      function(progress, tick)
        progress:show(1, { "loss 3" })
        progress:note "step 1/9  held out 2"
        tick(1)
        progress:show(2, { "loss 2" })
        progress:finish()
        progress:finish()
      end)
    assert.equal("\rstep 1/9  loss 3  left 1m01s\27[K\rstep 1/9  held out 2\27[K\n"
      .. "\rstep 2/9  loss 2  left 1m01s\27[K\n", text)
  end)

  it("is plain lines in a pipe", function()
    local text = written({ live = false, total = 9 }, function(progress, tick)
      progress:show(1, { "loss 3" })
      tick(5)
      progress:show(2, { "loss 2.5" }) -- too soon
      progress:note "held out"
      tick(5)
      progress:show(5, { "loss 2" })
    end)
    assert.equal("step 1/9  loss 3  left 0s\nheld out\nstep 5/9  loss 2  left 8s\n", text)
  end)

  it("cuts a line that stays, as it does the live one", function()
    local text = written({ live = true }, function(progress) progress:note(("x"):rep(99)) end)
    assert.equal("\r" .. ("x"):rep(59) .. "\27[K\n", text)
  end)
end)

describe("the time left", function()
  local settings = { steps = 100, eval_every = 10, valid_batches = 6, accumulate = 2 }

  local function pace_of(batches)
    local pace = Pace.new(settings, batches)
    for _ = 1, 10 do pace:step(2) end
    return pace
  end

  it("reckons evaluations before there was one", function()
    -- Steps of 2 s; a batch of an evaluation a third of a batch of training: 1/3 s. Behind step 10
    -- there are evaluations at 20 .. 90, and the one at the end, of the same rows.
    assert.is_true(math.abs(90 * 2 + (8 * 6 + 6) / 3 - pace_of(6):left(10)) < 1e-9)
    -- Of more rows at the end the one at 100 is another.
    assert.is_true(math.abs(90 * 2 + (9 * 6 + 50) / 3 - pace_of(50):left(10)) < 1e-9)
  end)

  it("knows what they take, and what saves do", function()
    local pace = pace_of(50)
    pace:between(12, true) -- 2 s a batch
    pace:between(5, false)
    assert.is_true(math.abs(90 * 2.5 + 2 * (9 * 6 + 50) - pace:left(10)) < 1e-9)
    assert.is_true(math.abs(90 * 2.5 + 2 * (9 * 6 + 50 + 4) - pace:left(10, 4)) < 1e-9)
    assert.is_true(math.abs(2 * 7 - pace:left(100, 7)) < 1e-9) -- in the last one
    assert.is_true(math.abs(2 * 50 - pace:left(100)) < 1e-9)
  end)

  it("is not known before the end is, or a step", function()
    assert.is_nil(Pace.new(settings, 6):left(1))
    local pace = Pace.new({ eval_every = 10, valid_batches = 6, accumulate = 1 }, 6)
    pace:step(1)
    assert.is_nil(pace:left(1))
  end)
end)

describe("train", function()
  setup(commands.start)
  teardown(commands.stop)

  it("leaves a line for every evaluation, and marks the best", function()
    local run, _, err = commands.train("run", ("--data %s --steps 30 --eval-every 10 --threads 1 "
      .. "--lr 0.03 --schedule constant"):format(commands.path "t.txt"))
    local best, lines = math.huge, {}
    for line in err:gmatch "(step %d+/30 +training [^\n]+)" do lines[#lines + 1] = line end
    for _, record in ipairs(commands.log_of(run)) do
      if record.valid_loss and not record.final then
        local line = table.remove(lines, 1)
        local wanted = ("step %d/30       training %.4f  held out %.4f "):format(record.step,
          record.smoothed, record.valid_loss)
        assert.equal(wanted, line:sub(1, #wanted))
        assert.equal(record.valid_loss < best, line:find("* best so far", 1, true) ~= nil, line)
        best = math.min(best, record.valid_loss)
      end
    end
    assert.equal(0, #lines)
    assert.is_truthy(support.read(run .. "/loss.svg"):find("running mean of about 20 steps", 1,
      true))
  end)
end)
