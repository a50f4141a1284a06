-- long_rows_spec.lua - memory that does not grow with length or vocabulary: losses of logits that
-- are made in pieces, and evaluation in slices. Bytes are counted by the engine.
local pf = require "performer"
local models = require "spec.support.models"
local support = require "spec.support"
local nn = pf.nn

local i32 = { dtype = "i32" }

local rows = models.ids_of

--- Bytes that f() needs beside what lives, and what it gives.
local function peak_of(f)
  collectgarbage()
  collectgarbage()
  local before = pf.memory().live
  pf.reset_peak()
  local result = f()
  return pf.memory().peak - before, result
end

describe("a loss in pieces", function()
  --- Loss and gradients of linear and cross-entropy, in one op or two.
  local function walk(fused, L, V)
    pf.seed(5)
    local x, w = pf.randn(2, L, 4):requires_grad(), pf.randn(V, 4):requires_grad()
    local b = pf.randn(V):requires_grad()
    local ids = rows(2, L, function(i, t) return t % 7 == i and -1 or (t * t + i) * 31 % V end)
    local bytes, loss = peak_of(function()
      local tape <close> = pf.tape()
      local total = fused and pf.linear_cross_entropy(x, w, ids, { bias = b })
        or pf.linear(x, w, { bias = b }):cross_entropy(ids)
      tape:backward(total)
      return total:tobytes()
    end)
    return { bytes = bytes, loss = loss, x = x:grad(), w = w:grad(), b = b:grad() }
  end

  it("has the bits of the two ops where one piece is all", function()
    local one, two = walk(true, 50, 33), walk(false, 50, 33)
    assert.are.equal(two.loss, one.loss)
    for _, name in ipairs { "x", "w", "b" } do assert.bits_equal(two[name], one[name]) end
  end)

  it("has their loss, and their gradients, in a fraction of the memory", function()
    local one, two = walk(true, 300, 60000), walk(false, 300, 60000)
    assert.are.equal(two.loss, one.loss)
    assert.bits_equal(two.x, one.x)
    assert.near_tensor(two.w, one.w, 1e-5)
    assert.near_tensor(two.b, one.b, 1e-5)
    assert.is_true(one.bytes < 0.35 * two.bytes, ("%d of %d"):format(one.bytes, two.bytes))
  end)

  it("has the same bits for any number of threads", function()
    local outs, folder = {}, support.folder()
    finally(function() support.remove(folder) end)
    for _, threads in ipairs { 1, 2, 3 } do
      local file = support.write(folder .. "/bits.lua", ([[
        local pf = require "performer"
        pf.open { threads = %d, seed = 5 }
        local x, w = pf.randn(300, 4):requires_grad(), pf.randn(60000, 4):requires_grad()
        local ids = {}
        for t = 1, 300 do ids[t] = t * t %% 60000 end
        local tape <close> = pf.tape()
        local loss = pf.linear_cross_entropy(x, w, pf.tensor(ids, { dtype = "i32" }))
        tape:backward(loss)
        local hash = 0
        for _, t in ipairs { loss, x:grad(), w:grad() } do
          local bytes = t:tobytes()
          for i = 1, #bytes - 3, 4 do hash = hash * 33 + string.unpack("<i4", bytes, i) end
        end
        print(hash)]]):format(threads))
      local code, out, err = support.shell(("%s/bin/performer %s"):format(support.build, file))
      assert.are.equal(0, code, err)
      outs[#outs + 1] = out
    end
    assert.are.equal(outs[1], outs[2])
    assert.are.equal(outs[1], outs[3])
  end)
end)

describe("model:loss", function()
  local batch = { input = models.ids(2, 40, 19, 1),
                  target = rows(2, 40, function(b, t) return t % 5 == b and -1 or t * b % 19 end) }

  local function walk(model, f)
    local sums = {}
    do
      local tape <close> = pf.tape()
      local loss = f()
      tape:backward(loss)
      sums[1] = loss:tobytes()
    end
    for _, p in ipairs(model:parameters()) do
      sums[#sums + 1] = p:grad():tobytes()
      p:clear_grad()
    end
    return sums
  end

  for name, make in pairs {
    ["tied to the table"] = function() return models.new { dropout = 0.1 } end,
    ["with a head of its own"] = function()
      return models.new { tied = false, recompute = true }
    end,
    ["made of a chain"] = function()
      return nn.chain { nn.embedding { vocab = 19, dim = 8 }, nn.linear { from = 8, to = 19 } }
    end,
    ["that ends in an activation"] = function()
      return nn.chain { nn.embedding { vocab = 19, dim = 8 },
                        nn.linear { from = 8, to = 19, act = "gelu" } }
    end,
    ["that is recomputed"] = function()
      return nn.chain { recompute = true, nn.embedding { vocab = 19, dim = 8 },
                        nn.linear { from = 8, to = 19 } }
    end,
    ["with a layer in Lua at its end"] = function()
      return nn.chain { nn.embedding { vocab = 19, dim = 19 },
                        { forward = function(_, x) return x * 2 end } }
    end,
  } do
    it("is the cross-entropy of a model " .. name .. ", bit for bit", function()
      local model, pass = make(), { training = true, step = 4 }
      assert.are.same(
        walk(model, function() return model(batch, pass):cross_entropy(batch.target) end),
        walk(model, function() return model:loss(batch, pass) end))
    end)
  end

  it("says what a batch lacks, or has otherwise", function()
    local model = models.new {}
    assert.raises("target", function() model:loss { input = batch.input } end)
    assert.raises("loss: x is %[2, 40%] and the target %[1, 40%] i32", function()
      model:loss { input = batch.input, target = models.ids(1, 40, 19) }
    end)
    assert.raises("id 19", function()
      model:loss { input = batch.input, target = rows(2, 40, function() return 19 end) }
    end)
  end)
end)

describe("model:evaluate", function()
  local B, L = 2, 150
  local input = rows(B, L, function(b, t) return (t * t + 7 * b) % 19 end)
  local target = rows(B, L, function(b, t)
    return t % 11 == 0 and -1 or (3 * t + b * t * t) % 19
  end)
  local packed = rows(B, L, function(b, t) return (t + 13 * b) // 40 end)
  local there = rows(B, L, function(b, t) return t <= 120 + 10 * b and 1 or 0 end)

  --- The same by hand: sums of losses and hits.
  local function by_hand(model, batch)
    local logits, right, tokens = model(batch), 0, 0
    local best, ids = logits:argmax(-1):totable(), batch.target:totable()
    for b = 1, B do
      for t = 1, L do
        if ids[b][t] >= 0 then
          tokens = tokens + 1
          right = right + (best[b][t] - 1 == ids[b][t] and 1 or 0)
        end
      end
    end
    local loss = logits:cross_entropy(batch.target, { reduction = "sum" }):item()
    return { loss = loss, right = right, tokens = tokens }
  end

  for name, case in pairs {
    ["plain attention"] = { {} },
    ["a convolution and an n-gram memory"] = { { conv = 4, ngrams = { longest = 4, buckets = 64 } },
                                               { documents = packed } },
    ["heads that forget"] = { { decay = 1, positions = "learned" }, { mask = there } },
    ["reversible blocks"] = { { reversible = true, conv = 3, tied = false } },
    ["documents and a mask"] = { { positions = "sinusoidal" },
                                 { documents = packed, mask = there } },
  } do
    it("is the same in slices, with " .. name, function()
      local model, batch = models.new(case[1]), { input = input, target = target }
      for key, value in pairs(case[2] or {}) do batch[key] = value end
      local want = by_hand(model, batch)
      for _, length in ipairs { 0, 16, 50, 149, 1000 } do
        local got = model:evaluate(batch, { slice_length = length })
        assert.is_true(math.abs(got.loss - want.loss) <= 1e-5 * want.loss)
        assert.are.equal(want.right, got.right)
        assert.are.equal(want.tokens, got.tokens)
      end
    end)
  end

  it("takes what sees the future, or has no state, as a whole", function()
    for why, options in pairs { ["only a causal model"] = { causal = false },
                                ["no state of fixed size"] = { attention = "exact" } } do
      local model, batch = models.new(options), { input = input, target = target }
      local want, got = by_hand(model, batch), model:evaluate(batch)
      assert.is_true(math.abs(got.loss - want.loss) <= 1e-6 * want.loss)
      assert.are.equal(want.right, got.right)
      assert.raises(why, function()
        model:evaluate(batch, { slice_length = 16 })
      end)
    end
  end)

  it("is not recorded, and leaves no gradient", function()
    local model = models.new {}
    local tape <close> = pf.tape()
    model:evaluate({ input = input, target = target }, { slice_length = 50 })
    for _, p in ipairs(model:parameters()) do assert.is_nil(p:grad()) end
    tape:close()
  end)

  it("needs no more memory for longer rows", function()
    local model = models.new { layers = 2 }
    local peaks = {}
    for i, n in ipairs { 9000, 9000, 36000 } do
      local long = rows(1, n, function(_, t) return t * t % 19 end)
      peaks[i] = peak_of(function() return model:evaluate { input = long, target = long } end)
    end
    assert.is_true(peaks[3] < 1.2 * peaks[2], ("%d of %d"):format(peaks[3], peaks[2]))
  end)

  it("goes through layers in Lua that look at a position alone, in slices too", function()
    for _, alone in ipairs { true, false } do
      local gate = { name = "gate", by_position = alone, forward = function(_, h) return h * 2 end }
      if not alone then gate.step = gate.forward end
      local model = nn.chain { nn.embedding { vocab = 19, dim = 8 }, gate,
                               nn.block { dim = 8, heads = 2, causal = true },
                               nn.linear { from = 8, to = 19 } }
      local batch = { input = input, target = target }
      local want = by_hand(model, batch)
      assert.is_true(math.abs(model:evaluate(batch).loss - want.loss) <= 1e-5 * want.loss)
      local fine, got = pcall(model.evaluate, model, batch, { slice_length = 50 })
      assert.are.equal(alone, fine)
      if fine then assert.are.equal(want.right, got.right) end
    end
  end)

  it("refuses slices that are too short, and a prefix in several", function()
    local model, batch = models.new {}, { input = input, target = target }
    assert.raises("a slice of 15 positions; it has at least 16", function()
      model:evaluate(batch, { slice_length = 15 })
    end)
    batch.prefix = pf.tensor({ 3, 4 }, i32)
    assert.raises("a prefix is seen from everywhere", function()
      model:evaluate(batch, { slice_length = 16 })
    end)
    assert.are.equal(by_hand(model, batch).right, model:evaluate(batch).right)
  end)
end)

describe("a long prompt", function()
  it("needs no more memory than a short one", function()
    local model, peaks = models.new { layers = 2 }, {}
    for i, n in ipairs { 3000, 3000, 24000 } do
      local ids = models.ids(1, n, 19):reshape(n)
      peaks[i] = peak_of(function()
        local stream <close> = model:stream()
        stream:feed(ids)
      end)
    end
    -- The ids themselves are copied once.
    assert.is_true(peaks[3] - peaks[2] < 2 * 4 * 24000, ("%d of %d"):format(peaks[3], peaks[2]))
  end)
end)
