-- commands_find_lr_spec.lua - train --find-lr: a rate that grows, what it suggests, and that
-- nothing is kept but a picture.
local commands = require "spec.support.commands"
local pf = require "performer"

local assert_sentence, exists, good, log_of = commands.assert_sentence, commands.exists,
  commands.good, commands.log_of
local path, performer, records, train = commands.path, commands.performer, commands.records,
  commands.train

describe("the search for a learning rate", function()
  setup(commands.start)
  teardown(commands.stop)

  --- What a search prints as JSON, and says.
  local function found(arguments)
    local out, err = good(("train --data %s %s --find-lr --json --threads 1 %s"):format(
      path "t.txt", commands.SMALL, arguments or ""))
    return records(out), err
  end

  it("runs through rates from far below to far above, and suggests one that trains", function()
    local list, err = found ""
    local final = table.remove(list)
    assert.is_true(final.final and #list >= 60 and #list <= 100)
    local lowest = math.huge
    for i, point in ipairs(list) do
      local rate = 0.004 / 400 * (300 * 400) ^ ((i - 1) / 99)
      assert.near(rate, point.lr, 1e-9 * rate)
      lowest = math.min(lowest, point.smoothed)
    end
    assert.equal(lowest, final.lowest_loss)
    local highest
    for _, point in ipairs(list) do
      if point.smoothed <= lowest + 0.02 * (list[1].smoothed - lowest) then highest = point.lr end
    end
    assert.equal(("%.2g"):format(highest / 3), ("%.2g"):format(final.suggested_lr))
    assert.is_truthy(err:find(("suggestion  --lr %g, a third of"):format(final.suggested_lr), 1,
                              true))
    local losses = {}
    for i, lr in ipairs { final.suggested_lr, final.suggested_lr / 30 } do
      local log = log_of(train("lr" .. i, ("--data %s --steps 60 --threads 1 --lr %g"):format(
        path "t.txt", lr)))
      losses[i] = log[#log].valid_loss
    end
    assert.is_true(losses[1] < losses[2])
  end)

  it("takes as many steps as --steps says, and tells what it does not look at", function()
    local list, err = found "--steps 30"
    local final = table.remove(list)
    assert.is_true(final.final and #list > 20 and #list <= 30)
    for i, point in ipairs(list) do
      local rate = 0.004 / 400 * (300 * 400) ^ ((i - 1) / 29)
      assert.near(rate, point.lr, 1e-9 * rate)
    end
    assert.is_nil(err:find("nothing, ", 1, true))
    err = select(2, found "--steps 20 --warmup 4 --eval-every 5")
    assert.matches("which trains nothing, %-%-warmup and %-%-eval%-every do nothing\n", err)
    err = select(2, found "--minutes 1")
    assert.matches("which trains nothing, %-%-minutes does nothing\n", err)
    local code, _, why = performer(("train %s --find-lr --steps 19"):format(path "t.txt"))
    assert.equal(2, code)
    assert_sentence(why, "%-%-find%-lr takes 20 steps at least, got %-%-steps 19")
  end)

  it("keeps nothing but its picture, where a run may begin then", function()
    local out = path "there"
    found("--out " .. out)
    assert.is_true(exists(out .. "/lr.svg"))
    for _, name in ipairs { "log.jsonl", "LATEST", "step-100/manifest.json" } do
      assert.is_false(exists(out .. "/" .. name))
    end
    train("there", ("--data %s --steps 2 --threads 1"):format(path "t.txt"))
    assert.is_true(exists(out .. "/lr.svg"))
  end)

  it("is the same twice, goes with what a run has, and ends where all comes apart", function()
    local more = "--accumulate 2 --batch 2 --bidirectional --optimizer sgd --lr 3"
    local a, b = found(more), found(more)
    assert.same(a, b)
    assert.is_true(#a < 100)
    assert.is_number(a[#a].suggested_lr)
    local list, err = found "--lr 1e6 --clip 0 --optimizer sgd"
    assert.is_true(#list < 100)
    assert.is_nil(list[#list].suggested_lr)
    assert.matches("the loss has not come down from .* on: try another %-%-lr", err)
  end)

  it("says that no rate helps weights that are no numbers, as training does", function()
    local run = train("broken", ("--data %s --steps 1 --threads 1"):format(path "t.txt"))
    local opened = assert(pf.checkpoint.load(run, { optimizer = false }))
    opened.model:tensors()["blocks.1.mlp.up.weight"]:fill_(0 / 0)
    assert(pf.checkpoint.save(path "none", { model = opened.model, state = opened.state,
                                             tokenizer = opened.tokenizer }))
    for i, more in ipairs { "--find-lr", "--steps 2" } do
      local code, _, err = performer(("train --data %s --init %s --threads 1 --out %s %s"):format(
        path "t.txt", path "none", path("from" .. i), more))
      assert.equal(1, code)
      assert.truthy(err:find("'blocks.1.mlp.up.weight' holds NaN or infinity before the step: "
        .. "begin with other weights", 1, true), err)
      assert.is_nil(err:find("lower --lr", 1, true))
    end
  end)

  it("is no way to go on with a run", function()
    local code, _, err = performer("train --find-lr --resume " .. path "none")
    assert.equal(2, code)
    assert_sentence(err, "%-%-find%-lr can't change with %-%-resume")
  end)
end)
