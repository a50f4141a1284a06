-- sliced_spec.lua - training over slices of a sequence: the gradient of the whole in the memory
-- of one slice, whatever the layers hand on. Bytes are counted by the engine; no time is measured.
local pf = require "performer"
local commands = require "spec.support.commands"
local models = require "spec.support.models"
require "spec.support"
local nn = pf.nn

local i32 = { dtype = "i32" }

local ids, model_of = models.ids, models.new

describe("backward_sliced", function()
  local B, L = 2, 150

  local function rows(f) return models.ids_of(B, L, f) end

  local x = rows(function(b, t) return (t * t + 7 * b) % 19 end)
  local target = rows(function(b, t) return t % 11 == 0 and -1 or (3 * t + b * t * t) % 19 end)
  local packed = rows(function(b, t) return (t + 13 * b) // 40 end)
  local there = rows(function(b, t) return t <= 120 + 10 * b and 1 or 0 end)

  --- Gradients of the whole sequence, by name, and the loss.
  local function whole(model, batch, pass)
    for _, p in ipairs(model:parameters()) do p:clear_grad() end
    local loss
    do
      local tape <close> = pf.tape()
      local total = model(batch, pass):cross_entropy(batch.target)
      tape:backward(total)
      loss = total:item()
    end
    return models.take_gradients(model), loss
  end

  describe("gives the gradient of the whole sequence", function()
    for name, case in pairs {
      ["softmax features"] = { {} },
      ["a convolution and an n-gram memory"] = { { conv = 4, ngrams = { longest = 4,
                                                                       buckets = 64 } } },
      ["learned positions"] = { { positions = "learned" } },
      ["waves"] = { { positions = "sinusoidal", norm = "rmsnorm" } },
      ["heads that forget"] = { { decay = 1, qk_norm = true, kv_heads = 1, conv = 3 } },
      ["packed documents"] = { { conv = 4, decay = 1, ngrams = { longest = 4, buckets = 64 } },
                               { documents = packed } },
      ["documents and learned positions"] = { { positions = "learned" },
                                              { documents = packed } },
      ["a mask"] = { { conv = 4 }, { mask = there } },
      ["documents and a mask"] = { { conv = 4, positions = "sinusoidal" },
                                   { documents = packed, mask = there } },
      ["tilted features"] = { { kernel = { name = "softmax_plus", features = 16, seed = 3 } } },
      -- Denominators near 0 make the most of the last digits.
      ["relu features"] = { { kernel = { name = "relu" } }, nil, 5e-5 },
      ["features of both signs"] = { { kernel = { name = "softmax_trig", features = 32,
                                                  seed = 3 } }, nil, 5e-5 },
      ["identity attention"] = { { attention = "identity", tied = false } },
    } do
      it("with " .. name, function()
        local model = model_of(case[1])
        local batch = { input = x, target = target }
        for key, value in pairs(case[2] or {}) do batch[key] = value end
        local grads, loss = whole(model, batch)
        for _, slices in ipairs { 1, 2, 3, 9 } do
          local got = model:backward_sliced(batch, { slices = slices })
          assert.is_true(math.abs(got - loss) <= 1e-6 * loss)
          local list, names = model:parameters()
          for i, p in ipairs(list) do
            assert.near_tensor(grads[names[i]], p:grad(), case[3] or 1e-5)
            p:clear_grad()
          end
        end
      end)
    end
  end)

  it("is the whole where a row is shorter than what a convolution keeps", function()
    local model, short = model_of { conv = 4, token_shift = true }, ids(2, 2, 19)
    local batch = { input = short, target = short }
    local grads, loss = whole(model, batch)
    assert.near(loss, model:backward_sliced(batch, { slice_length = 16 }), 1e-6)
    local list, names = model:parameters()
    for i, p in ipairs(list) do assert.near_tensor(grads[names[i]], p:grad(), 1e-5) end
  end)

  it("takes no number of targets below 0, nor do others take such a step", function()
    local model = model_of {}
    for _, key in ipairs { "counted", "micro", "step" } do
      local message = key .. " must be at least 0, got %-1"
      assert.error_matches(function()
        model:backward_sliced({ input = x, target = target }, { slices = 2, [key] = -1 })
      end, message)
      assert.error_matches(function() model(x, { [key] = -1 }) end, message)
    end
  end)

  --- The loss, and the bytes of every gradient.
  local function bits(model, batch, options)
    local list = { model:backward_sliced(batch, options) }
    for _, p in ipairs(model:parameters()) do
      list[#list + 1] = p:grad():tobytes()
      p:clear_grad()
    end
    return list
  end

  it("takes a length as well as a number", function()
    local model = model_of { conv = 4 }
    local batch = { input = x, target = target }
    assert.are.same(bits(model, batch, { slices = 3, step = 1 }),
                    bits(model, batch, { slice_length = 50, step = 1 }))
    local grads, loss = whole(model, batch)
    for _, length in ipairs { 16, 74, 149, 1000 } do -- the last slice has what is left
      local got = model:backward_sliced(batch, { slice_length = length })
      assert.is_true(math.abs(got - loss) <= 1e-6 * loss)
      local list, names = model:parameters()
      for i, p in ipairs(list) do
        assert.near_tensor(grads[names[i]], p:grad(), 1e-5)
        p:clear_grad()
      end
    end
  end)

  describe("keeps the states of all slices, or of some, with the same bits", function()
    for name, case in pairs {
      plain = { {} },
      dropout = { { dropout = 0.3, conv = 4, ngrams = { longest = 3, buckets = 32 } } },
      ["packed documents"] = { { decay = 1, conv = 3 }, { documents = packed, mask = there } },
      ["tilts that are watched"] = { { kernel = { name = "softmax_plus", features = 16,
                                                  seed = 3 } } },
    } do
      it("with " .. name, function()
        local batch = { input = x, target = target }
        for key, value in pairs(case[2] or {}) do batch[key] = value end
        for _, slices in ipairs { 1, 2, 5, 7, 9 } do
          local model = model_of(case[1])
          local one = bits(model, batch, { slices = slices, levels = 1, step = 4, watch = true })
          local report = pf.json.encode(model:attention_report())
          model = model_of(case[1])
          assert.are.same(one, bits(model, batch, { slices = slices, levels = 2, step = 4,
                                                    watch = true }))
          assert.are.equal(report, pf.json.encode(model:attention_report()))
        end
      end)
    end

    it("in less memory", function()
      local model = model_of { layers = 4, dim = 64, heads = 2, kernel = { name = "softmax",
                                                                           features = 128 } }
      local ids_of = ids(1, 1024, 19)
      local peaks = {}
      for i, levels in ipairs { 1, 1, 2 } do
        collectgarbage()
        collectgarbage()
        local before = pf.memory().live
        pf.reset_peak()
        model:backward_sliced({ input = ids_of, target = ids_of }, { slices = 64, levels = levels })
        peaks[i] = pf.memory().peak - before
      end
      assert.is_true(peaks[3] < 0.5 * peaks[2], ("%d of %d"):format(peaks[3], peaks[2]))
    end)
  end)

  it("hands gradients from slice to slice, in full", function()
    -- The first key's gradient comes from the last slice alone.
    local model = model_of { positions = "none", tied = false }
    local last = rows(function(_, t) return t > 140 and 3 or -1 end)
    local first = rows(function(_, t) return t == 1 and 5 or 7 end)
    local batch = { input = first, target = last }
    local grads = whole(model, batch)
    model:backward_sliced(batch, { slices = 9 })
    local row = model:tensors()["embedding.weight"]:grad():slice(1, 6, 6)
    assert.near_tensor(grads["embedding.weight"]:slice(1, 6, 6), row, 1e-5)
    assert.is_true(row:abs():max():item() > 1e-6)
  end)

  it("draws the same dropout in both runs of a slice", function()
    -- A seed that draws other masks would not give the derivative of the loss that it returns.
    local model = model_of { layers = 1, dropout = 0.4 }
    local w = model:tensors()["blocks.1.mlp.up.weight"]
    local batch = { input = x, target = target }
    local pass = { slices = 5, step = 3 }
    model:backward_sliced(batch, pass)
    local grad = w:grad():detach()
    local direction = pf.randn(table.unpack(w:shape()))
    local slope = (grad * direction):sum():item()
    local before, sides = w:detach(), {}
    for side, h in ipairs { 1e-2, -1e-2 } do
      w:copy_(before + direction * h)
      sides[side] = model:backward_sliced(batch, pass)
    end
    assert.is_true(math.abs((sides[1] - sides[2]) / 2e-2 - slope) < 0.02 * math.abs(slope) + 1e-4)
  end)

  it("draws another dropout for every slice", function()
    -- Rows that repeat, through layers that remember nothing: were the masks of two slices the
    -- same, the loss of both would be that of one.
    local model = nn.chain { nn.embedding { vocab = 5, dim = 8 }, nn.dropout { p = 0.5 },
                             nn.linear { from = 8, to = 5 } }
    local part = pf.tensor({ { 0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1 } }, i32)
    local function loss_of(tokens, slices)
      return model:backward_sliced({ input = tokens, target = tokens },
                                   { slices = slices, step = 3 })
    end
    local one, two = loss_of(part, 1), loss_of(pf.concat({ part, part }, 2), 2)
    assert.is_true(math.abs(one - two) > 1e-4, ("%.6f and %.6f"):format(one, two))
  end)

  it("drops out as a tape's step does, in one slice", function()
    local model, batch = model_of { layers = 1, dropout = 0.4 }, { input = x, target = target }
    local _, loss = whole(model, batch, { training = true, step = 3 })
    assert.are.equal(loss, model:backward_sliced(batch, { slices = 1, step = 3 }))
    assert.are_not.equal(loss, model:backward_sliced(batch, { slices = 1, step = 4 }))
  end)

  it("gives the same bits each time, and adds as a tape does", function()
    local model = model_of { conv = 4, dropout = 0.1 }
    local batch = { input = x, target = target }
    local w = model:parameters()[3]
    local first = model:backward_sliced(batch, { slices = 4, step = 2 })
    local once = w:grad():detach()
    assert.are.equal(first, model:backward_sliced(batch, { slices = 4, step = 2 }))
    assert.near_tensor(once * 2, w:grad(), 1e-6)
    w:clear_grad()
    model:backward_sliced(batch, { slices = 4, step = 2 })
    assert.bits_equal(once, w:grad())
  end)

  it("takes the memory of one slice", function()
    local function wide(n, f)
      local list = {}
      for t = 1, n do list[t] = f(t) end
      return pf.tensor({ list }, i32)
    end
    local model = model_of { layers = 4, dim = 64, heads = 4 }
    local batch = { input = wide(1024, function(t) return t * t % 19 end) }
    batch.target = batch.input
    local peaks = {}
    for i, slices in ipairs { 1, 1, 8 } do
      collectgarbage()
      collectgarbage()
      local before = pf.memory().live
      pf.reset_peak()
      model:backward_sliced(batch, { slices = slices })
      peaks[i] = pf.memory().peak - before
    end
    assert.is_true(peaks[3] < 0.25 * peaks[2], ("%d of %d"):format(peaks[3], peaks[2]))
  end)

  it("says what can't be sliced", function()
    local batch = { input = x, target = target }
    local function refused(pattern, model, more, slices)
      local given = { input = x, target = target }
      for key, value in pairs(more or {}) do given[key] = value end
      assert.raises(pattern, function()
        model:backward_sliced(given, { slices = slices or 2 })
      end)
      for _, p in ipairs(model:parameters()) do assert.is_nil(p:grad()) end
    end
    refused("exact attention has no state of fixed size", model_of { kernel = "exact" })
    refused("only a causal model", model_of { causal = false })
    refused("a prefix is seen from everywhere", model_of {}, { prefix = pf.tensor({ 3, 4 }, i32) })
    refused("ask for 1 to 9 slices", model_of {}, nil, 10)
    refused("ask for 1 to 9 slices", model_of {}, nil, 0)
    refused("must be %(B, L, %.%.%.%) and %(B, L%) i32", model_of {}, { target = ids(1, 3, 19) })
    refused("id 19 at position", model_of {}, { target = rows(function(_, t)
      return t == 1 and 19 or 3
    end) })
    local gate = nn.chain { nn.embedding { vocab = 19, dim = 8 }, nn.block { dim = 8, heads = 2,
      causal = true }, { forward = function(_, h) return h end,
                         step = function(_, h) return h end },
      nn.linear { from = 8, to = 19 } }
    refused("a layer of the host can't be trained in slices", gate)
    local block = nn.chain { nn.block { dim = 8, heads = 2, causal = true },
                             nn.linear { from = 8, to = 19 } }
    local rows_of = pf.randn(B, L, 8):requires_grad()
    local tape <close> = pf.tape()
    for _, input in ipairs { rows_of, rows_of * 2 } do
      refused("x %[2, 150, 8%] wants a gradient", block, { input = input })
    end
    tape:close()
    assert.raises("target", function() model_of {}:backward_sliced({ input = x }, {}) end)
    for pattern, options in pairs {
      ["not both"] = { slices = 2, slice_length = 50 },
      ["a slice of 15 positions; it has at least 16"] = { slice_length = 15 },
      ["3 levels; there are 1, 2"] = { levels = 3 },
    } do
      assert.raises(pattern, function() model_of {}:backward_sliced(batch, options) end)
    end
    assert.raises("slice", function() model_of {}:backward_sliced(batch, { slice = 2 }) end)
  end)
end)

describe("train --sliced", function()
  setup(commands.start)
  teardown(commands.stop)

  it("trains as without, on packed sequences too, and resumes to the bit", function()
    local more = ("--data %s --eval-every 10 --log-every 1 --conv 4 --ngrams 3"):format(
      commands.path "p.fasta")
    local plain = commands.log_of(commands.train("plain", more .. " --steps 20 --length 64"))
    local run = commands.train("sliced", more .. " --steps 20 --length 64 --sliced 4")
    local sliced = commands.log_of(run)
    assert.are.equal(#plain, #sliced)
    for i, record in ipairs(plain) do
      local loss = record.loss or record.valid_loss
      local other = sliced[i].loss or sliced[i].valid_loss
      assert.is_true(math.abs(loss - other) < 1e-3 * loss, ("%g, not %g"):format(other, loss))
    end
    local copy = commands.copy(run, "copy")
    commands.good(("train --resume %s --steps 30"):format(run))
    commands.good(("train --resume %s --steps 30 --threads 1"):format(copy))
    assert.are.equal(commands.losses(run), commands.losses(copy))
  end)

  it("takes a length, recomputes within slices, and changes with --resume", function()
    local more = ("--data %s --eval-every 10 --log-every 1 --length 64 --steps 12"):format(
      commands.path "p.fasta")
    local count = commands.train("count", more .. " --sliced 2")
    local length = commands.train("length", more .. " --slice-length 32 --recompute")
    assert.are.equal(commands.losses(count), commands.losses(length))
    local copy = commands.copy(count, "by-length")
    commands.good(("train --resume %s --steps 16"):format(count))
    commands.good(("train --resume %s --steps 16 --slice-length 32"):format(copy))
    assert.are.equal(commands.losses(count), commands.losses(copy))
  end)

  it("says in one sentence what it can't slice", function()
    local data = commands.path "p.fasta"
    local code, _, err = commands.performer(("train --data %s --steps 3 --length 64 --sliced 2 "
      .. "--slice-length 20 --out %s"):format(data, commands.path "no"))
    assert.are.equal(2, code)
    commands.assert_sentence(err, "%-%-sliced or %-%-slice%-length, not both")
    code, _, err = commands.performer(("train --data %s --steps 3 --length 64 --slice-length 15 "
      .. "--out %s"):format(data, commands.path "no"))
    assert.are.equal(2, code)
    commands.assert_sentence(err, "a slice has at least 16 positions")
    for option, pattern in pairs {
      ["--bidirectional"] = "is for causal models",
      ["--attention exact"] = "is for linear attention",
      ["--attention auto"] = "is for linear attention", -- which finds exact faster so short
      ["--length 32"] = "try %-%-sliced 2",
    } do
      code, _, err = commands.performer(("train --data %s --steps 3 --length 64 "
        .. "--sliced 4 %s --out %s"):format(data, option, commands.path "no"))
      assert.are.equal(2, code)
      commands.assert_sentence(err, pattern)
    end
  end)
end)
