-- commands_accumulate_spec.lua - train --accumulate: steps of several batches, as one large one;
-- and all that a run may have at once goes on to the bit, wherever it was stopped.
local commands = require "spec.support.commands"
local support = require "spec.support"

local assert_sentence, good, log_of = commands.assert_sentence, commands.good, commands.log_of
local losses, path, performer, train = commands.losses, commands.path, commands.performer,
  commands.train

--- Fails unless two runs have nearly the same losses, norms and figures.
local function assert_near(a, b, tolerance)
  local other = log_of(b)
  for i, record in ipairs(log_of(a)) do
    for _, name in ipairs { "loss", "norm", "valid_loss", "train_loss", "lr" } do
      -- Evaluations in passing are of so many batches, of other sizes here.
      if record[name] and (name ~= "valid_loss" or record.final) then
        assert.near(record[name], other[i][name], tolerance * record[name],
                    ("%s of step %d"):format(name, record.step))
      end
    end
  end
end

describe("steps of several batches", function()
  setup(commands.start)
  teardown(commands.stop)

  local function run(name, arguments)
    return train(name, ("%s --log-every 1 --eval-every 5 --threads 1"):format(arguments))
  end

  it("are steps of one large batch, by letters and not by batches", function()
    for name, data in pairs { text = path "t.txt", proteins = path "p.fasta" } do
      local more = ("--data %s --steps 10 "):format(data)
      local large = run(name .. "large", more .. "--batch 4")
      local small = run(name .. "small", more .. "--batch 1 --accumulate 4")
      assert_near(large, small, 2e-3)
      assert.near(log_of(large)[1].loss, log_of(small)[1].loss, 1e-5)
      assert.near(log_of(large)[1].norm, log_of(small)[1].norm, 1e-4)
    end
  end)

  it("count their tokens", function()
    local log = log_of(run("tokens", ("--data %s --tokens 1000 --batch 2 --accumulate 4"):format(
      path "t.txt")))
    assert.equal(math.ceil(1000 / (8 * 32)), log[#log].step)
  end)

  it("go through rows in slices, too", function()
    local more = ("--data %s --steps 4 --length 48 --batch 2 --accumulate 3 "):format(
      path "p.fasta")
    assert_near(run("whole", more), run("slices", more .. "--sliced 3"), 2e-3)
  end)

  it("have other dropout in each", function()
    -- A text of one row: both batches of a step are the same.
    local text = support.write(path "row.txt", support.read(path "t.txt"):sub(1, 690))
    local more = ("--data %s --steps 1 --batch 1 --length 620 "):format(text)
    local function first(name, arguments) return log_of(run(name, more .. arguments))[1].loss end
    assert.near(first("one", ""), first("two", "--accumulate 2"), 1e-6)
    assert.is_true(math.abs(first("drop1", "--dropout 0.5") - first("drop2",
      "--dropout 0.5 --accumulate 2")) > 1e-4)
  end)

  it("are refused where a step would never be whole", function()
    local code, _, err = performer(("train %s --accumulate 1000000000 --out %s"):format(
      path "t.txt", path "never"))
    assert.equal(2, code)
    assert_sentence(err, "1.02e%+12 tokens a step; at most 268435456")
  end)

  it("are refused by a script whose loop takes one", function()
    local text, n = support.read "scripts/train.lua":gsub(
      "for batch, pass, share in run:batches%(step%) do[^\n]*",
      "do local batch, pass, share = run.step_batches[1], run:pass(step), 1")
    assert.equal(1, n)
    local script = support.write(path "old.lua", text)
    local more = ("--data %s --out %s --steps 3 %s "):format(path "t.txt", path "old",
      commands.SMALL)
    local code, _, err = performer(("%s %s --accumulate 2"):format(script, more))
    assert.equal(2, code, err)
    assert_sentence(err, "%-%-accumulate 2: this script takes one batch a step; in a loop over "
      .. "run:batches%(step%)")
    good(("%s %s"):format(script, more))
  end)
end)

describe("a run with all there is", function()
  local more, whole, last

  setup(function()
    commands.start()
    more = ("--data %s --steps 40 --eval-every 4 --log-every 1 --batch 2 --accumulate 3 --ema 0.9 "
      .. "--schedule wsd --cooldown 20 --patience 2 --warmup 20 --lr 0.3 --dropout 0.1 --redraw 7 "
      .. "--save-minutes 0 --keep 99 --optimizer lion --valid %s"):format(path "p.fasta",
      support.write(path "v.fasta", support.read(path "p.fasta"):gsub("L", "K"):sub(1, 1500)))
    whole = train("everything", more .. " --threads 1")
    local log = log_of(whole)
    last = log[#log].step
    assert.equal("patience", log[#log].stopped, "the spec is to see a run that patience ends")
  end)

  teardown(commands.stop)

  --- Fails unless the run has the log and the weights of the whole one.
  local function assert_same(run)
    assert.equal(losses(whole), losses(run))
    for _, file in ipairs { "model", "optimizer" } do
      assert.equal(support.read(("%s/step-%d/%s.safetensors"):format(whole, last, file)),
                   support.read(("%s/step-%d/%s.safetensors"):format(run, last, file)), file)
    end
  end

  it("goes on to the bit from every step", function()
    for step = 2, last - 1, 7 do
      local run = path("from" .. step)
      good(("train --resume %s/step-%d --out %s --threads 2"):format(whole, step, run))
      assert_same(run)
      support.remove(run)
    end
  end)

  it("goes on to the bit after a kill, and after SIGTERM", function()
    for _, signal in ipairs { "KILL", "TERM" } do
      local run = path(signal)
      support.shell(([[
        OMP_WAIT_POLICY=passive %s/bin/performer train --out %s %s %s --threads 1 &
        n=0
        while [ ! -s %s/LATEST ] && [ $n -lt 1000 ]; do sleep 0.01; n=$((n + 1)); done
        kill -%s $!
        wait $!]]):format(support.build, run, commands.SMALL, more, run, signal))
      good(("train --resume %s --threads 1"):format(run))
      assert_same(run)
    end
  end)
end)
