-- carry_spec.lua - rows that go on where the rows before them ended (model:carry): the same outputs
-- as of the long row that they are stretches of, in every way that a model is run, with documents
-- that end within rows and between them; and streams of a data set, a batch a step.
local array = require "spec.support.array"
local pf = require "performer"
local commands = require "spec.support.commands"
local models = require "spec.support.models"
local support = require "spec.support"

local B, L = 2, 40
local CUTS = { 0, 17, 20, 33, 40 } -- also rows shorter than what layers look back

local function whole_of(f) return models.ids_of(B, L, f) end

local x, target = models.ids(B, L, 19, 1), models.ids(B, L, 19, 2)
local documents = whole_of(function(b, t) return t <= 17 and 5 or (t + b) // 12 end)
local lasting = whole_of(function(b, t) return t <= 3 + b and 1 or 2 end)
local there = whole_of(function(b, t) return t == 19 and b == 1 and 0 or 1 end)

--- The stretches that the long row is cut into, as batches.
local function rows(pass)
  local list = {}
  for i = 1, #CUTS - 1 do
    list[i] = { input = x:slice(2, CUTS[i] + 1, CUTS[i + 1]),
                target = target:slice(2, CUTS[i] + 1, CUTS[i + 1]) }
    for name, t in pairs(pass or {}) do list[i][name] = t:slice(2, CUTS[i] + 1, CUTS[i + 1]) end
  end
  return list
end

local function largest(a, b) return (a - b):abs():max():item() end

local MODELS = {
  ["softmax features"] = {},
  ["a convolution and an n-gram memory"] = { conv = 4, ngrams = { longest = 4, buckets = 64 } },
  ["learned positions"] = { positions = "learned", length = 64 },
  ["waves"] = { positions = "sinusoidal" },
  ["heads that forget"] = { decay = 1, qk_norm = true, kv_heads = 1, conv = 3 },
  ["recompute"] = { recompute = true, conv = 4 },
  ["reversible"] = { reversible = true },
  ["groups of heads"] = { head_groups = { { heads = 1 },
                                          { heads = 1, kernel = { name = "relu" } } } },
}

local WINDOW = { name = "sliding", window = 20 }

describe("rows that go on", function()
  setup(commands.start)
  teardown(commands.stop)

  for name, options in pairs(MODELS) do
    for told, pass in pairs { ["one document"] = {}, ["packed ones"] = { documents = documents },
                              ["packed ones, masked"] = { documents = documents, mask = there },
                              ["one of several rows"] = { documents = lasting } } do
      it(("have the outputs of the long row: %s, %s"):format(name, told), function()
        local model = models.new(options)
        local carry, list = model:carry { batch = B }, {}
        for i, row in ipairs(rows(pass)) do list[i] = model(row, { carry = carry }) end
        local long = model({ input = x, documents = pass.documents, mask = pass.mask })
        assert.is_true(largest(pf.concat(list, 2), long) < 1e-5 * long:abs():max():item())
        assert.equal(L, carry:position())
      end)
    end

    it("have one loss, whoever asks for it: " .. name, function()
      local model, sums = models.new(options), {}
      local pass = { documents = documents }
      for _, ask in ipairs {
        function(row, carry) return model:loss(row, { carry = carry }):item() end,
        function(row, carry)
          local sum = model:evaluate(row, { carry = carry })
          return sum.loss / sum.tokens
        end,
        function(row, carry) return model:backward_sliced(row, { carry = carry }) end,
        function(row, carry)
          return model(row, { carry = carry }):cross_entropy(row.target):item()
        end,
      } do
        local carry, losses = model:carry { batch = B }, {}
        for i, row in ipairs(rows(pass)) do losses[i] = ask(row, carry) end
        sums[#sums + 1] = losses
      end
      for i = 2, #sums do
        for k, loss in ipairs(sums[i]) do assert.near(sums[1][k], loss, 1e-5) end
      end
    end)
  end

  it("have no gradient in the rows before, and slices have the tape's within a row", function()
    local model = models.new { conv = 4 }
    local list = rows()
    local function grads(f)
      local carry = model:carry { batch = B }
      model(list[1], { carry = carry })
      model:clear_grad()
      f(carry)
      local all = {}
      for name, p in pairs(model:tensors()) do all[name] = p:grad() and p:grad():detach() end
      model:clear_grad()
      return all
    end
    local long = { input = x:slice(2, 18, 40), target = target:slice(2, 18, 40) }
    local tape = grads(function(carry)
      local tape <close> = pf.tape()
      tape:backward(model:loss(long, { carry = carry, training = false }))
    end)
    local slices = 0
    grads(function(carry)
      model:backward_sliced({ input = models.ids(B, 64, 19, 3), target = models.ids(B, 64, 19, 4) },
                            { slices = 3, carry = carry })
      slices = carry:position()
    end)
    assert.equal(17 + 64, slices)
    local one = grads(function(carry)
      model:backward_sliced(long, { slices = 1, carry = carry })
    end)
    for name, g in pairs(tape) do
      assert.is_true(largest(g, one[name]) <= 1e-5 * g:abs():max():item() + 1e-9, name)
    end
    -- Not those of the long row, into which the rows before are written.
    local free = models.new { conv = 4 }
    do
      local open <close> = pf.tape()
      open:backward(free:loss({ input = x, target = target }))
    end
    local moved = 0
    for name, g in pairs(tape) do
      moved = math.max(moved, largest(g, free:tensors()[name]:grad()))
    end
    assert.is_true(moved > 1e-4)
  end)

  it("are forked, saved and loaded, and go on with the same bits", function()
    local model, list = models.new { conv = 4 }, rows { documents = documents }
    assert.raises("keep = 7 positions are of windows", function()
      model:carry { batch = B, keep = 7 }
    end)
    local carry = model:carry { batch = B }
    model(list[1], { carry = carry })
    local folder = support.folder()
    local path = folder .. "/carry.safetensors"
    assert.is_true(carry:save(path))
    local others = { carry:fork(), assert(model:load_state(path)) }
    local y = model(list[2], { carry = carry })
    for _, other in ipairs(others) do
      assert.equal(0, largest(y, model(list[2], { carry = other })))
      assert.equal(20, other:position())
    end
    support.remove(folder)
  end)

  it("are taken apart by rows and joined again, to the bit", function()
    local folder = support.folder()
    local function bytes(state)
      local path = folder .. "/rows.safetensors"
      assert(state:save(path))
      return support.read(path)
    end
    for _, case in ipairs { { {}, {} }, { { conv = 4, head_groups = MODELS["groups of heads"]
                                            .head_groups }, {} },
                            { { attention = WINDOW }, { keep = 9 } },
                            { { attention = WINDOW }, { form = "rows" } } } do
      local options, how = case[1], case[2]
      how.batch = B
      local model = models.new(options)
      local both, list = model:carry(how), rows { documents = documents, mask = there }
      for i = 1, 2 do model(list[i], { carry = both }) end
      local first, second = both:fork():reorder { 1 }, both:fork():reorder { 2 }
      assert.equal(1, second:batch())
      local joined = first:fork():append(second)
      assert.equal(bytes(both), bytes(joined))
      assert.equal(0, largest(model(list[3], { carry = both }),
                              model(list[3], { carry = joined })))
      assert.has_error(function() both:append(second) end,
        "append: the two states differ in their positions; they must be of one model, and have "
        .. "seen as many positions")
      assert.equal(B, both:batch())
      assert.raises("the two states differ in", function()
        model:carry(how):append(models.new { kernel = { name = "relu" } }:carry { batch = 1 })
      end)
    end
    support.remove(folder)
  end)

  it("are taken apart and joined where a layer is in Lua", function()
    local layer = { part = function(_, y, entry)
      local all = y:sum(2):reshape(B, 1, y:size(3))
      local h = entry and entry[1] or all * 0
      return y + h, { h + all }
    end }
    function layer.forward(_, y) return y end
    local model = pf.nn.chain { pf.nn.embedding { vocab = 19, dim = 8 }, layer,
                                pf.nn.linear { from = 8, to = 19 } }
    local list = rows { documents = whole_of(function(b, t) return t > 17 and b or 1 end) }
    local carry = model:carry { batch = B }
    model(list[1], { carry = carry })
    local path = commands.path "lua.safetensors"
    assert(carry:save(path))
    local other = { carry:fork():reorder { 1 }:append(carry:fork():reorder { 2 }),
                    assert(model:load_state(path)) }
    local fresh = model(list[2], { carry = model:carry { batch = B } })
    assert.is_false(pcall(model.loss, model, { input = list[2].input, target = list[2].target + 99,
                                               documents = list[2].documents }, { carry = carry }))
    local y = model(list[2], { carry = carry })
    for _, carried in ipairs(other) do
      assert.equal(0, largest(y, model(list[2], { carry = carried })))
    end
    -- Row 1 goes on in a document that row 2 begins anew.
    assert.is_true(largest(y:slice(1, 1, 1), fresh:slice(1, 1, 1)) > 0)
    assert.equal(0, largest(y:slice(1, 2, 2), fresh:slice(1, 2, 2)))
  end)

  it("stay as they were where a call fails", function()
    local model, list = models.new {}, rows()
    local carry = model:carry { batch = B }
    model(list[1], { carry = carry })
    local other = carry:fork()
    assert.has_error(function() model:loss({ input = x, target = x + 100 }, { carry = carry }) end)
    assert.equal(17, carry:position())
    assert.equal(0, largest(model(list[2], { carry = carry }), model(list[2], { carry = other })))
  end)

  it("say what they do not go with", function()
    local model = models.new {}
    local carry = model:carry { batch = B }
    local function refuses(text, f, ...)
      local fine, message = pcall(f, ...)
      assert.is_false(fine)
      assert.is_truthy(tostring(message):find(text, 1, true), tostring(message))
    end
    refuses("x is [1, 40]", model, x:slice(1, 1, 1), { carry = carry })
    refuses("a prefix is seen from everywhere", model, x,
            { carry = carry, prefix = pf.tensor({ 3, 3 }, { dtype = "i32" }) })
    refuses("this state is a stream's", model, x, { carry = model:state { batch = B } })
    refuses("carried from row to row", model.prefill, model, x, carry)
    refuses("state of fixed size", models.new { attention = "exact" }.carry,
            models.new { attention = "exact" })
    refuses("state of fixed size", models.new { causal = false }.carry,
            models.new { causal = false })
    refuses("keep at least 0", model.carry, model, { keep = -1 })
  end)
end)

describe("streams of a data set", function()
  local length, size = 32, 3
  setup(commands.start)
  teardown(commands.stop)

  --- Fails unless each row of b begins where that of a ended.
  local function assert_goes_on(a, b)
    for r = 1, size do
      if a.target[r][length]:item() >= 0 and b.mask[r][1]:item() == 1 then
        assert.equal(a.target[r][length]:item(), b.input[r][1]:item())
        assert.equal(a.documents[r][length]:item(), b.documents[r][1]:item())
      end
    end
  end

  it("go on row by row, and begin anew with a pass", function()
    local data = pf.data.text { path = commands.path "t.txt", length = length }
    for _, split in ipairs { "train", "valid" } do
      local all = data:info(split).rows
      local each = split == "train" and all // size or math.ceil(all / size)
      local last, tokens, steps = nil, 0, 0
      for _, batch in data:batches { size = size, split = split, stream = true } do
        if last then assert_goes_on(last, batch) end
        last, tokens, steps = batch, tokens + batch.tokens, steps + 1
      end
      assert.equal(each, steps)
      if split == "valid" then assert.equal(data:info(split).tokens, tokens) end
      if split == "train" then
        local anew = data:batch { index = each + 1, size = size, stream = true }
        for r = 1, size do
          assert.not_equal(last.documents[r][length]:item(), anew.documents[r][1]:item())
        end
      end
    end
  end)

  it("are laid for a lane as it has them in the whole batch", function()
    support.write(commands.path "some.fasta", table.concat((function()
      local list = {}
      for i = 1, 20 do -- one a row, of 64
        list[i] = (">s%d\n%s\n"):format(i, ("ACDEFGHIKLMNPQRSTVWY"):rep(5):sub(i,
          i + 33 + 13 * (i % 3)))
      end
      return list
    end)()))
    local alone = 0 -- rows that by themselves would be shorter
    for _, file in ipairs { "t.txt", "some.fasta" } do
      local data = pf.data.open { path = commands.path(file), length = 64, min_tokens = 1 }
      for step, batch in data:batches { size = size, split = "all", stream = true } do
        local tokens, how = 0, { index = step, size = size, split = "all", stream = true }
        for _, cut in ipairs { { 1, 1 }, { 2, 3 } } do
          how.rows = cut
          local part = data:batch(how)
          tokens = tokens + part.tokens
          if part.input:size(2) == 64 and part.mask[1][48]:item() == 0 then alone = alone + 1 end
          assert.equal(cut[2] - cut[1] + 1, part.rows)
          for _, name in ipairs { "input", "target", "documents", "mask" } do
            assert.same(batch[name]:slice(1, cut[1], cut[2]):totable(), part[name]:totable())
          end
        end
        assert.equal(batch.tokens, tokens)
      end
      for text, some in pairs { ["are of the 3 of the batch"] = { 2, 4 },
                                ["rows count from 1"] = { 0, 1 },
                                ["rows = {first, last}"] = { 3, 2 } } do
        assert.raises(text, function()
          data:batch { index = 1, size = size, stream = true, rows = some }
        end)
      end
      assert.raises("rows that go on", function() data:batch { size = size, rows = { 1, 2 } } end)
    end
    assert.is_true(alone > 0)
  end)

  it("keep the pieces of a sequence together only where they follow each other", function()
    local long = {}
    for i = 1, 4 do
      long[i] = (">s%d\n%s\n"):format(i, ("ACDEFGHIKLMNPQRSTVWY"):rep(3 + 2 * i))
    end
    local path = support.write(commands.path "long.fasta", table.concat(long))
    local data = pf.data.fasta { path = path, length = length, min_tokens = 1 }
    local last, followed = nil, 0
    for _, batch in data:batches { size = 1, split = "all", stream = true } do
      local at = last and last.input:size(2)
      if last and last.documents[1][at]:item() == batch.documents[1][1]:item() then
        assert.equal(last.target[1][at]:item(), batch.input[1][1]:item())
        followed = followed + 1
      end
      last = batch
    end
    assert.is_true(followed > 4)
  end)
end)

describe("train --carry", function()
  setup(commands.start)
  teardown(commands.stop)

  local function arguments(more)
    return ("--data %s --batch 3 --steps 8 --eval-every 4 --log-every 1 --carry 48 %s")
      :format(commands.path "t.txt", more or "")
  end

  it("goes on to the bit from a checkpoint", function()
    for name, more in pairs { rows = "", slices = "--sliced 2", several = "--accumulate 2" } do
      local whole = commands.train("whole" .. name, arguments(more))
      local rest = commands.path("rest" .. name)
      commands.good(("train --resume %s/step-4 --out %s"):format(whole, rest))
      for _, file in ipairs { "model.safetensors", "carried.safetensors" } do
        assert.equal(support.read(("%s/step-8/%s"):format(whole, file)),
                     support.read(("%s/step-8/%s"):format(rest, file)))
      end
    end
  end)

  it("carries keys of windows, or rows of their layers", function()
    local logs = {}
    for _, form in ipairs { "keys", "rows" } do
      local more = ("--attention sliding --window 24 --carry-form %s"):format(form)
      local whole = commands.train("windows" .. form, arguments(more))
      local rest = commands.path("windowsrest" .. form)
      commands.good(("train --resume %s/step-4 --out %s"):format(whole, rest))
      for _, file in ipairs { "model.safetensors", "carried.safetensors" } do
        assert.equal(support.read(("%s/step-8/%s"):format(whole, file)),
                     support.read(("%s/step-8/%s"):format(rest, file)))
      end
      logs[form] = commands.log_of(whole)
    end
    assert.near(logs.keys[1].loss, logs.rows[1].loss, 1e-6) -- nothing is carried yet
    assert.near(logs.keys[8].loss, logs.rows[8].loss, 0.05)
    assert.not_equal(logs.keys[8].loss, logs.rows[8].loss)
  end)

  it("has in lanes nearly the steps of whole batches", function()
    local whole = commands.log_of(commands.train("lanes1", arguments "--dropout 0"))
    local lanes = commands.log_of(commands.train("lanes3", arguments "--dropout 0 --lanes 3"))
    for i = 1, 8 do assert.near(whole[i].loss, lanes[i].loss, 1e-4) end
    assert.near(whole[#whole].valid_loss, lanes[#lanes].valid_loss, 1e-4)
  end)

  it("is evaluated as it was trained", function()
    local run = commands.train("judged", arguments())
    local log = commands.log_of(run)
    local eval = ("eval --checkpoint %s --data %s --split valid --carry 48 --json"):format(run,
      commands.path "t.txt")
    local out = commands.good(eval .. " --batch 3")
    assert.near(log[#log].valid_loss, pf.json.decode(out).loss, 1e-6)
    local one = pf.json.decode((commands.good(eval)))
    assert.equal(log[#log].tokens, one.tokens)
  end)

  it("is refused for what sees the future, and for what has no state of fixed size", function()
    for more, words in pairs { ["--carry-form rows"] = "this model has none",
                               ["--bidirectional"] = "causal models",
                               ["--attention exact"] = "state of fixed size" } do
      local code, _, err = commands.performer(("train %s --out %s"):format(arguments(more),
        commands.path "none"))
      assert.equal(2, code)
      assert.is_truthy(err:find(words, 1, true), err)
    end
  end)
end)

describe("what is carried", function()
  -- Symbols that come again AGO places later, but one in 8, in streams cut into rows of LENGTH: the
  -- first AGO of a row are told by the row before alone, which a window reaches through a carry.
  local SYMBOLS, LENGTH, AGO, ROWS, STEPS = 12, 24, 12, 8, 250

  local function streams(seed, n)
    local numbers, list = array.random(seed), {}
    local fresh = numbers:whole({ ROWS, n * LENGTH + 1 }, 0, SYMBOLS - 1)
    local again = numbers:whole({ ROWS, n * LENGTH + 1 }, 0, 7)
    for b = 1, ROWS do
      local row, at = {}, (b - 1) * (n * LENGTH + 1)
      for t = 1, n * LENGTH + 1 do
        row[t] = t > AGO and again[at + t] > 0 and row[t - AGO] or fresh[at + t]
      end
      list[b] = row
    end
    return pf.tensor(list, { dtype = "i32" })
  end

  local function batch(s, i)
    return s:slice(2, (i - 1) * LENGTH + 1, i * LENGTH), s:slice(2, (i - 1) * LENGTH + 2,
                                                                 i * LENGTH + 1)
  end

  --- The loss of the first AGO symbols of a row, by a model that was trained so.
  local function first_half(options)
    pf.seed(3)
    local model = pf.nn.performer { vocab = SYMBOLS, dim = 32, heads = 2, layers = 2, causal = true,
      attention = { name = "sliding", window = AGO + 4 } }
    local optimizer, s = pf.optim.adamw(model, { lr = 5e-3 }), streams(1, STEPS)
    local carry = options and model:carry(options)
    for i = 1, STEPS do
      local input, wanted = batch(s, i)
      local tape <close> = pf.tape()
      local logits = model(input, { carry = carry, training = true, step = i })
      tape:backward(logits:cross_entropy(wanted))
      optimizer:step { clip = 1 }
    end
    s = streams(9, 8)
    local loss, own = 0, options and model:carry(options)
    for i = 1, 8 do
      local input, wanted = batch(s, i)
      local logits = model(input, { carry = own })
      if i > 2 then
        loss = loss + logits:slice(2, 1, AGO - 1):cross_entropy(wanted:slice(2, 1, AGO - 1))
          :item() / 6
      end
    end
    return loss
  end

  it("tells what lies just before a row, and nothing else does", function()
    local alone = first_half(nil)
    assert.is_true(alone > 0.9 * math.log(SYMBOLS), alone)
    for _, form in ipairs { "keys", "rows" } do
      local told = first_half { batch = ROWS, keep = AGO + 3, form = form }
      assert.is_true(told < alone - 1, ("%s: %.3f, alone %.3f"):format(form, told, alone))
    end
  end)
end)
