-- commands_course_spec.lua - how long a run of train is, and what its steps are: --steps, --tokens,
-- --patience, and what --plain leaves out.
local commands = require "spec.support.commands"
local pf = require "performer"
local support = require "spec.support"

local assert_sentence, exists, good, log_of = commands.assert_sentence, commands.exists,
  commands.good, commands.log_of
local losses, path, performer, train = commands.losses, commands.path, commands.performer,
  commands.train

--- The last record of a run's log.
local function final_of(run)
  local log = log_of(run)
  return log[#log]
end

describe("the length of a run", function()
  setup(commands.start)
  teardown(commands.stop)

  it("is as many steps as --tokens take", function()
    local data = assert(pf.data.open { path = path "t.txt", length = 32 })
    local info = data:info "train"
    local step = 4 * info.tokens / info.rows
    local run, _, err = train("tokens", ("--data %s --tokens 2000 --threads 1"):format(
      path "t.txt"))
    local steps = math.ceil(2000 / step)
    assert.matches(("steps  %d, as many as 2,000 tokens take"):format(steps), err)
    assert.equal(steps, final_of(run).step)
    local same = train("steps", ("--data %s --steps %d --threads 1"):format(path "t.txt", steps))
    assert.equal(losses(same), losses(run))
    good(("train --resume %s --steps %d --threads 1"):format(run, steps + 2))
    assert.equal(steps + 2, final_of(run).step)
  end)

  it("is said once", function()
    for arguments, told in pairs {
      ["--steps 5 --minutes 1"] = "give %-%-steps or %-%-minutes, not both",
      ["--tokens 5 --steps 1"] = "give %-%-steps or %-%-tokens, not both",
      ["--tokens 5 --minutes 1"] = "give %-%-minutes or %-%-tokens, not both",
      ["--tokens 5 --minutes 1 --steps 2"] = "give %-%-steps, %-%-minutes or %-%-tokens, not all",
    } do
      local code, _, err = performer(("train --data %s %s --out %s"):format(path "t.txt", arguments,
        path "never"))
      assert.equal(2, code)
      assert_sentence(err, told)
      assert.is_false(exists(path "never"))
    end
  end)
end)

describe("patience", function()
  local more -- of a run that is trained at far too high a rate: it gets better, then worse

  setup(function()
    commands.start()
    more = ("--data %s --steps 200 --eval-every 4 --log-every 1 --lr 0.3 --warmup 40 --threads 1")
      :format(path "t.txt")
  end)

  teardown(commands.stop)

  it("ends a run after so many evaluations without a better one, with the best marked", function()
    local run, _, err = train("patient", more .. " --patience 3")
    local log = log_of(run)
    local final, best = log[#log], nil
    for _, record in ipairs(log) do
      if record.valid_loss and not record.final then
        if not best or record.valid_loss < best.valid_loss then best = record end
        assert.is_true(record.step <= best.step + 12)
      end
    end
    assert.equal(best.step + 12, final.step)
    assert.same({ true, "patience", 200, best.step, best.valid_loss },
                { final.final, final.stopped, final.steps, final.best_step, final.best_loss })
    assert.equal(("step-%d\n"):format(best.step), support.read(run .. "/BEST"))
    assert.equal(("step-%d\n"):format(final.step), support.read(run .. "/LATEST"))
    assert.is_truthy(err:find(("no progress in 3 evaluations, the best held-out loss is %.4f "
      .. "of step %d: the run ends here"):format(best.valid_loss, best.step), 1, true), err)
    -- It has ended, and goes on with more of it.
    _, err = good("train --resume " .. run)
    assert.matches(("has ended at step %d of 200, after 3 evaluations without progress; train on "
      .. "with: .* %%-%%-patience 6\n"):format(final.step), err)
    good(("train --resume %s --patience 5 --threads 1"):format(run))
    assert.equal(losses(train("more_patient", more .. " --patience 5")), losses(run))
  end)

  it("finds its best step marked, though a kill came before the mark", function()
    local run = train("unmarked", more .. " --patience 1")
    local best = support.read(run .. "/BEST")
    support.write(run .. "/BEST", "step-1\n")
    local step = math.tointeger(best:match "%d+")
    good(("train --resume %s/step-%d --steps 41 --threads 1"):format(run, step))
    assert.equal(best, support.read(run .. "/BEST"))
  end)

  it("counts on where a run was stopped", function()
    local whole = train("whole", more .. " --patience 2 --save-minutes 0 --keep 100")
    local last = final_of(whole).step
    for _, step in ipairs { last - 6, last - 4, last - 1 } do
      local run = path("from" .. step)
      good(("train --resume %s/step-%d --out %s --threads 1"):format(whole, step, run))
      assert.equal(losses(whole), losses(run))
      assert.equal(support.read(("%s/step-%d/model.safetensors"):format(whole, last)),
                   support.read(("%s/step-%d/model.safetensors"):format(run, last)))
    end
  end)

  it("is without end where a new one is given", function()
    local run = train("given_up", more .. " --patience 1")
    assert.is_true(final_of(run).step < 45)
    good(("train --resume %s --patience 0 --steps 45 --threads 1"):format(run))
    assert.is_nil(final_of(run).stopped)
    assert.equal(45, final_of(run).step)
  end)
end)

describe("a plain model", function()
  setup(commands.start)
  teardown(commands.stop)

  it("has attention alone, and what is given beside it", function()
    local function options_of(name, arguments)
      good(("train --data %s --out %s --dim 16 --heads 2 --layers 1 --length 32 --steps 1 %s")
        :format(path "p.fasta", path(name), arguments))
      return assert(pf.checkpoint.model(path(name))):options()
    end
    local usual, plain = options_of("usual", ""), options_of("plain", "--plain")
    assert.is_true(usual.conv > 0 and usual.decay > 0 and usual.ngrams ~= nil)
    assert.same({ 0, 0 }, { plain.conv, plain.decay })
    assert.is_nil(plain.ngrams)
    local some = options_of("some", "--conv 3 --plain")
    assert.same({ 3, 0 }, { some.conv, some.decay })
  end)
end)
