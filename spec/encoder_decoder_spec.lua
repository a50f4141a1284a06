-- encoder_decoder_spec.lua - models of two sequences: what they learn, say and remember, how they
-- are made, saved and loaded, and that any layer may be either half.
local array = require "spec.support.array"
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local i32 = { dtype = "i32" }
local V, LS = 8, 6 -- symbols, length; the token V begins a row

local function model(more)
  pf.seed(1)
  local o = { vocab = V + 1, dim = 32, layers = 1, heads = 4, length = LS + 1,
              positions = "learned", kernel = { features = 32 } }
  for key, value in pairs(more or {}) do o[key] = value end
  return nn.encoder_decoder(o)
end

--- n rows: a source, and the same backwards to be said.
local function batch(n, seed)
  local from, source, input, target = array.random(seed), {}, {}, {}
  for b = 1, n do
    source[b] = from:whole({ LS }, 0, V - 1)
    input[b], target[b] = { V }, {}
    for i = 1, LS do
      target[b][i] = source[b][LS + 1 - i]
      if i < LS then input[b][i + 1] = target[b][i] end
    end
    source[b] = { table.unpack(source[b], 1, LS) }
  end
  return { input = pf.tensor(input, i32), target = pf.tensor(target, i32),
           source = pf.tensor(source, i32) }
end

local function learn(m, steps)
  local opt, loss = pf.optim.adamw(m, { lr = 5e-3 }), nil
  local lr = pf.schedule.cosine { warmup = 10, steps = steps, peak = 5e-3 }
  for step = 1, steps do
    local rows = batch(32, step)
    local tape <close> = pf.tape()
    local l = m(rows):cross_entropy(rows.target)
    tape:backward(l)
    opt:step { lr = lr(step), clip = 1 }
    loss = l:item()
  end
  return loss
end

describe("an encoder and a decoder", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  it("learn to say a row backwards, and say it one token at a time", function()
    local m = model()
    assert.is_true(learn(m, 250) < 0.1)
    local rows = batch(8, 1000)
    local right = 0
    for b = 1, 8 do
      local source = rows.source:slice(1, b, b)
      local said = m:generate { source = source, prompt = { V }, tokens = LS, temperature = 0 }
      local wanted = rows.target:slice(1, b, b):reshape(LS):totable()
      for i = 1, LS do right = right + (said[i] == wanted[i] and 1 or 0) end
    end
    assert.is_true(right >= 44, right .. " of 48")
    -- The same from a list, a tensor of one dimension, a checkpoint, and in a batch.
    local source = rows.source:slice(1, 1, 1)
    local o = { source = source, prompt = { V }, tokens = LS, temperature = 0 }
    local said = m:generate(o)
    o.source = source:reshape(LS)
    assert.are.same(said, m:generate(o))
    o.source = o.source:totable()
    assert.are.same(said, m:generate(o))
    assert(pf.checkpoint.save(folder .. "/run", { model = m }))
    local loaded = assert(pf.checkpoint.model(folder .. "/run"))
    assert.are.same(said, loaded:generate(o))
    local stream = m:stream { batch = 8, source = rows.source }
    local first = {}
    for b = 1, 8 do first[b] = { V } end
    stream:feed(first)
    local ids = stream:sample { temperature = 0 }
    assert.equal(said[1], ids[1])
    assert.equal(said[2], stream:next(ids, { temperature = 0 })[1])
  end)

  it("sample by their seed; streams fork, reorder, and are saved with their memory", function()
    local m, rows = model(), batch(2, 5)
    local function say(seed)
      return m:generate { source = rows.source:slice(1, 1, 1), prompt = { V }, tokens = LS,
                          temperature = 1, seed = seed }
    end
    assert.are.same(say(3), say(3))
    assert.are_not.same(say(3), say(4))
    local stream = m:stream { batch = 2, source = rows.source }
    stream:feed { { V, 1 }, { V, 2 } }
    assert.is_true(stream:save(folder .. "/stream"))
    local loaded, fork = assert(m:load_stream(folder .. "/stream")), stream:fork()
    stream:feed { { 3 }, { 4 } }
    loaded:feed { { 3 }, { 4 } }
    fork:reorder { 2, 1 }:feed { { 4 }, { 3 } }
    assert.equal(stream:logits():tobytes(), loaded:logits():tobytes())
    local a, b = stream:logits(), fork:logits()
    assert.is_true(support.distance(a:slice(1, 1, 1), b:slice(1, 2, 2)) < 1e-5)
    local other = m:stream { source = rows.source:slice(1, 2, 2) }
    other:feed { V, 2, 4 }
    assert.is_true(support.distance(other:logits(), a:slice(1, 2, 2):reshape(V + 1)) < 1e-5)
  end)

  it("stream what they read at once, and hide what the source's mask hides", function()
    local m, rows = model { layers = 2, qk_norm = true }, batch(2, 6)
    local mask = pf.tensor({ { 1, 1, 1, 1, 0, 0 }, { 0, 1, 1, 1, 1, 1 } }, i32)
    rows.source_mask = mask
    local y = m(rows)
    local state = m:state { batch = 2, source = rows.source, source_mask = mask }
    assert.is_true(support.distance(m:prefill(rows.input, state), y) < 1e-5)
    rows.source = rows.source * mask -- other ids where nothing is there
    assert.equal(y:tobytes(), m(rows):tobytes())
    rows.source_mask = nil
    assert.is_false(y:tobytes() == m(rows):tobytes())
  end)

  it("take a memory that was made before", function()
    local m, rows = model(), batch(2, 7)
    local memory = m:children()[1]:hidden(rows.source)
    assert.are.same({ 2, LS, 32 }, { table.unpack(memory:shape()) })
    local y = m(rows.input, { memory = memory })
    assert.equal(m(rows):tobytes(), y:tobytes())
    local state = m:state { batch = 2, memory = memory }
    assert.is_true(support.distance(m:prefill(rows.input, state), y) < 1e-5)
    -- Its mask goes by either name; one without a memory is no source's.
    local mask = pf.tensor({ { 1, 1, 1, 1, 0, 0 }, { 0, 1, 1, 1, 1, 1 } }, i32)
    local hidden = m(rows.input, { memory = memory, memory_mask = mask })
    assert.is_false(y:tobytes() == hidden:tobytes())
    assert.equal(hidden:tobytes(), m(rows.input, { memory = memory, source_mask = mask }):tobytes())
    state = m:state { batch = 2, memory = memory, source_mask = mask }
    assert.is_true(support.distance(m:prefill(rows.input, state), hidden) < 1e-5)
    rows.memory_mask = mask
    assert.error_matches(function() m(rows) end, "the mask of a source is source_mask")
  end)

  it("train in slices, recomputed and reversible, with the gradients of the whole", function()
    local function gradients(o, slices)
      local m = model(o)
      local x = array.tensor(array.random(1):whole({ 2, 48 }, 0, V))
      local rows = { input = x, target = x, source = batch(2, 8).source }
      if slices then
        m:backward_sliced(rows, { slices = slices })
      else
        local tape <close> = pf.tape()
        tape:backward(m(rows):cross_entropy(x))
      end
      local list, names = {}, select(2, m:parameters())
      for i, t in ipairs((m:parameters())) do list[i] = t:grad() end
      return list, names
    end
    local whole, names = gradients { positions = "rotary" }
    local sliced = gradients({ positions = "rotary" }, 3)
    local kept = gradients { positions = "rotary", recompute = true }
    for i, name in ipairs(names) do
      assert.is_true(support.distance(sliced[i], whole[i]) < 1e-4, name)
      assert.is_true(support.distance(kept[i], whole[i]) < 1e-5, name)
    end
    local m = model { reversible = true }
    local rows = batch(2, 9)
    local report = pf.check.gradient(function() return m(rows, { training = false }):cross_entropy(
      rows.target) end, (m:parameters()), { raise = false })
    assert.is_true(report.worst < 2e-2, report.worst)
  end)

  it("are any layers, those in Lua too, and of any width", function()
    pf.seed(2)
    local encoder = nn.module { table = nn.embedding { vocab = V, dim = 12 },
      forward = function(self, ids, pass)
        assert(pass.source and not pass.mask)
        return self.table(ids):tanh()
      end }
    local m = nn.encoder_decoder { encoder = encoder, vocab = V + 1, dim = 16, heads = 2,
      layers = 1, decoder = { memory_dim = 12 } }
    local rows = batch(2, 3)
    local y = m(rows)
    local state = m:state { batch = 2, source = rows.source }
    assert.is_true(support.distance(m:prefill(rows.input, state), y) < 1e-5)
    local wide = nn.encoder_decoder { vocab = 9, dim = 16, heads = 2, layers = 1,
      encoder = { dim = 24, vocab = 5 } }
    local halves = wide:children()
    assert.equal(24, halves[2]:options().memory_dim)
    assert.equal(5, halves[1]:options().vocab)
    assert.is_false(halves[1]:options().causal)
  end)

  it("say what they miss", function()
    local m, rows = model(), batch(2, 4)
    local function fails(text, f, ...)
      local ok, message = pcall(f, ...)
      assert.is_false(ok)
      assert.truthy(message:find(text, 1, true), message)
    end
    fails("the input 'source' is missing", m, rows.input)
    fails("the input 'source' is missing", m.stream, m)
    fails("the input 'source' is missing", m.generate, m,
      { prompt = { V }, tokens = 2 })
    fails("unknown option 'sources' (did you mean 'source'?)", m.generate, m,
      { prompt = { V }, sources = { 1 } })
    fails("'source' is [2], must be (B, Ls)", m, rows.input, { source = pf.tensor({ 1, 2 }, i32) })
    fails("'source_mask' is [1, 6], must be [2, 6]", m, rows.input,
      { source = rows.source, source_mask = pf.ones(1, 6, i32) })
    fails("'source' is [1, 6], must be (B, Ls) or (B, Ls, D) with B = 2", m, rows.input,
      { source = rows.source:slice(1, 1, 1) })
    fails("with B = 3", m.stream, m, { batch = 3, source = rows.source })
    fails("takes 2 children, 1 given", nn.encoder_decoder, { nn.linear { from = 1, to = 1 } })
    fails("only a causal model can stream", nn.encoder_decoder({ vocab = 9, dim = 16, heads = 2,
      layers = 1, decoder = { causal = false } }).stream,
      nn.encoder_decoder { vocab = 9, dim = 16, heads = 2, layers = 1,
                           decoder = { causal = false } }, { source = rows.source:slice(1, 1, 1) })
  end)
end)
