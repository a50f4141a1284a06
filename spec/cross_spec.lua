-- cross_spec.lua - cross-attention: what attention of its projections is, with every kind and map;
-- gradients to both sequences; a memory that a stream keeps in constant size; and decoders' blocks,
-- plain, recomputed, reversible and in slices.
local array = require "spec.support.array"
local child = require "spec.support.child"
local layers = require "spec.support.layers"
local pf = require "performer"
local support = require "spec.support"

local nn = pf.nn
local B, L, LM, D, H = 2, 9, 7, 8, 2
local i32 = { dtype = "i32" }

local function rows(seed, ...) return array.tensor(array.random(seed):normals { ... }) end

local mask = pf.tensor({ { 1, 1, 0, 1, 1, 0, 1 }, { 0, 1, 1, 1, 1, 1, 0 } }, i32)

local function cross(more)
  pf.seed(2)
  local o = { dim = D, heads = H }
  for key, value in pairs(more or {}) do o[key] = value end
  if not o.kernel and (o.attention or "favor") == "favor" then o.kernel = { features = 16 } end
  return nn.cross_attention(o)
end

-- Maps of both signs: a denominator can come near 0, where no difference tells a slope.
local signed = {}
for _, map in ipairs(pf.kernels().maps) do signed[map.name] = not map.positive end

--- Every kind that takes queries and keys of two sequences (one with edges, or with a table that
-- tells rooms, looks at one), with every map; or the smooth ones.
local function each(f, smooth)
  for _, a in ipairs(layers.attentions()) do
    local map = a.options.kernel and a.options.kernel.name
    local one = a.options.attention == "identity" or a.kind.edges or a.kind.table
    local skip = one or smooth and signed[map]
    if not skip then f(cross(a.options), a.name, a.options) end
  end
  f(cross { qk_norm = true }, "qk_norm")
  f(cross { kv_heads = 1, head_dim = 6 }, "kv_heads")
  f(cross { memory_dim = 5, bias = true }, "memory_dim", { memory_dim = 5 })
end

local function memory_of(o, seed) return rows(seed or 3, B, LM, o and o.memory_dim or D) end

local function heads(x, n) return x:reshape(B, x:size(2), n, -1):permute(1, 3, 2, 4) end

describe("cross-attention", function()
  it("is attention of its projections", function()
    for _, attention in ipairs { "favor", "exact" } do
      local m = cross { attention = attention }
      local t, x, memory = m:tensors(), rows(1, B, L, D), memory_of()
      local kv = memory:linear(t["key_value.weight"])
      local q = heads(x:linear(t["query.weight"]), H)
      local k, v = heads(kv:slice(3, 1, D), H), heads(kv:slice(3, D + 1, 2 * D), H)
      local o = { mask = mask }
      if attention == "favor" then o.kernel = pf.kernel.softmax { projection = t.projection } end
      local y = pf.attention[attention](q, k, v, o)
      y = y:permute(1, 3, 2, 4):reshape(B, L, D):linear(t["out.weight"])
      assert.is_true(support.distance(m(x, { memory = memory, memory_mask = mask }), y) < 1e-6)
    end
  end)

  it("comes near exact attention as features grow", function()
    local exact = cross { attention = "exact" }
    local x, memory, last = rows(1, B, L, D), memory_of(), math.huge
    for _, features in ipairs { 16, 256, 4096 } do
      local m = cross { kernel = { features = features } }
      for name, t in pairs(exact:tensors()) do m:tensors()[name]:copy_(t) end
      local off = support.distance(m(x, { memory = memory }), exact(x, { memory = memory }))
      assert.is_true(off < last)
      last = off
    end
    assert.is_true(last < 0.2, last)
  end)

  it("draws other features than the attention of its place", function()
    local o = { dim = D, heads = H, layer = 1, kernel = { features = 16, seed = 3 } }
    assert.is_false(nn.cross_attention(o):tensors().projection:tobytes() ==
      nn.attention(o):tensors().projection:tobytes())
  end)

  it("has its gradients, to both sequences and all weights", function()
    each(function(m, name, o)
      local report = pf.check.gradient(function(x, memory)
        return m(x, { memory = memory, memory_mask = mask }):square():sum()
      end, { rows(1, B, 4, D), memory_of(o) }, { raise = false })
      assert.is_true(report.worst < 1e-2, name .. " " .. report.worst)
      local x, memory = rows(1, B, 4, D), memory_of(o)
      report = pf.check.gradient(function()
        return m(x, { memory = memory, memory_mask = mask, training = false }):square():sum()
      end, (m:parameters()), { raise = false })
      assert.is_true(report.worst < 1e-2, name .. ", weights " .. report.worst)
    end, true)
  end)

  it("does not see what the memory's mask hides, and gives it no gradient", function()
    each(function(m, name, o)
      local x, memory = rows(1, B, L, D), memory_of(o)
      local keep = mask:reshape(B, LM, 1):totable()
      local shown = pf.tensor(keep)
      local other = memory * shown + memory_of(o, 4) * (-shown + 1)
      local y = m(x, { memory = memory, memory_mask = mask }):tobytes()
      assert.equal(y, m(x, { memory = other, memory_mask = mask }):tobytes(), name)
      memory:requires_grad()
      local tape <close> = pf.tape()
      tape:backward(m(x, { memory = memory, memory_mask = mask }):square():sum())
      assert.equal(0, (memory:grad() * (-shown + 1)):abs():max():item(), name)
    end)
  end)

  it("gives an item the same bits in any batch", function()
    each(function(m, name, o)
      local x, memory = rows(1, B, L, D), memory_of(o)
      local y = m(x, { memory = memory, memory_mask = mask })
      local one = m(x:slice(1, 2, 2), { memory = memory:slice(1, 2, 2),
        memory_mask = mask:slice(1, 2, 2) })
      assert.equal(y:slice(1, 2, 2):tobytes(), one:tobytes(), name)
    end)
  end)

  it("says what does not fit", function()
    local m, x = cross(), rows(1, B, L, D)
    assert.error_matches(function() m(x) end, "the input 'memory' is missing.*%(B, Lm, memory_d")
    assert.error_matches(function() m(x, { memory = rows(1, B, 3, 5) }) end,
      "'memory' is %[2, 3, 5%], must be %(B, Lm, memory_dim%) with B = 2 and memory_dim = 8")
    assert.error_matches(function() m(x, { memory = rows(1, 1, 3, D) }) end, "B = 2")
    assert.error_matches(function()
      m(x, { memory = memory_of(), memory_mask = mask:slice(2, 1, 3) })
    end, "'memory_mask' is %[2, 3%], must be %[2, 7%]")
    assert.error_matches(function() m:state { memory = memory_of() } end, "must be.*B = 1")
    assert.error_matches(function() cross { causal = true } end, "unknown option 'causal'")
    assert.error_matches(function()
      cross { attention = "identity" }(x, { memory = memory_of() })
    end, "identity attention needs as many queries as keys")
  end)
end)

describe("a stream's memory", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  local function position(x, t) return x:slice(2, t, t):reshape(x:size(1), -1) end

  it("answers as the whole call does, forked, reordered and from files, too", function()
    each(function(m, name, o)
      local x, memory = rows(1, B, L, D), memory_of(o)
      local whole = m(x, { memory = memory, memory_mask = mask })
      local state = m:state { batch = B, memory = memory, memory_mask = mask }
      local y = m:prefill(x:slice(2, 1, 5), state)
      assert.is_true(support.distance(y, whole:slice(2, 1, 5)) < 1e-5, name)
      assert.is_true(state:save(folder .. "/state"))
      local loaded, fork = assert(m:load_state(folder .. "/state")), state:fork()
      y = m:step(position(x, 6), state)
      assert.is_true(support.distance(y, position(whole, 6)) < 1e-5, name)
      assert.equal(y:tobytes(), m:step(position(x, 6), loaded):tobytes(), name)
      fork:reorder { 2, 1, 2 }
      local turned = pf.concat({ x:slice(1, 2, 2), x:slice(1, 1, 1), x:slice(1, 2, 2) }, 1)
      local z = m:step(position(turned, 6), fork)
      assert.is_true(support.distance(z:slice(1, 1, 1), y:slice(1, 2, 2)) < 1e-5, name)
      assert.is_true(support.distance(z:slice(1, 2, 2), y:slice(1, 1, 1)) < 1e-5, name)
    end)
  end)

  it("is of constant size where attention is linear", function()
    local m, exact = cross(), cross { attention = "exact" }
    local function bytes(layer, length)
      return layer:state { memory = rows(1, 1, length, D) }:bytes()
    end
    assert.equal(bytes(m, 5), bytes(m, 500))
    assert.is_true(bytes(exact, 500) > 50 * bytes(exact, 5))
  end)

  it("may be of no position at all: what is seen of it is 0", function()
    for _, attention in ipairs { "favor", "exact" } do
      local m, x = cross { attention = attention }, rows(1, B, L, D)
      local none = pf.zeros(B, 0, D)
      assert.equal(0, m(x, { memory = none }):abs():max():item())
      assert.equal(0, m:prefill(x, m:state { batch = B, memory = none }):abs():max():item())
    end
  end)
end)

describe("a decoder", function()
  local function decoder(more)
    pf.seed(4)
    local o = { vocab = 11, dim = D, layers = 2, heads = H, causal = true, cross = true }
    for key, value in pairs(more or {}) do o[key] = value end
    if not o.kernel and not o.attention then o.kernel = { features = 8 } end
    return nn.performer(o)
  end

  local function ids(length) return array.tensor(array.random(6):whole({ B, length }, 0, 10)) end

  --- Loss, and the bytes of all gradients, the memory's last.
  local function gradients(m, x, memory, slices)
    m:clear_grad()
    local leaf = memory:detach():requires_grad()
    local loss
    if slices then
      loss = m:backward_sliced({ input = x, target = x, memory = leaf, memory_mask = mask },
        { slices = slices })
    else
      local tape <close> = pf.tape()
      local l = m(x, { memory = leaf, memory_mask = mask }):cross_entropy(x)
      tape:backward(l)
      loss = l:item()
    end
    local list = {}
    for _, t in ipairs((m:parameters())) do list[#list + 1] = t:grad() end
    list[#list + 1] = leaf:grad()
    return loss, list
  end

  local function same(a, b, tolerance)
    assert.equal(#a, #b)
    for i = 1, #a do
      local off = tolerance and support.distance(a[i], b[i])
      assert.is_true(tolerance and off <= tolerance or a[i]:tobytes() == b[i]:tobytes(),
        ("gradient %d: %s"):format(i, tostring(off)))
    end
  end

  it("recomputed gives the same bits, the memory's gradient to rounding", function()
    local x, memory = ids(12), memory_of()
    local loss, plain = gradients(decoder(), x, memory)
    local again, kept = gradients(decoder { recompute = true }, x, memory)
    assert.equal(loss, again)
    same({ table.unpack(plain, 1, #plain - 1) }, { table.unpack(kept, 1, #kept - 1) })
    assert.is_true(support.distance(plain[#plain], kept[#kept]) < 1e-6)
  end)

  it("reversible has the gradients of its forward, the memory's among them", function()
    local m, x, memory = decoder { reversible = true }, ids(6), memory_of()
    local inputs = { memory }
    for _, t in ipairs((m:parameters())) do inputs[#inputs + 1] = t end
    local report = pf.check.gradient(function(kept)
      return m(x, { memory = kept * 1, training = false }):cross_entropy(x)
    end, inputs, { raise = false })
    assert.is_true(report.worst < 2e-2, report.worst)
    assert.is_true(report.inputs[1].judged > 0)
  end)

  it("in slices has the gradients of the whole, with linear attention and exact cross", function()
    local x, memory = ids(64), memory_of()
    for _, o in ipairs { {}, { kernel = { name = "relu" } }, { recompute = true, conv = 3 },
                         { recompute = true, shared = true }, { reversible = true } } do
      local loss, whole = gradients(decoder(o), x, memory)
      local sliced_loss, sliced = gradients(decoder(o), x, memory, 4)
      assert.near(loss, sliced_loss, 1e-5)
      same(whole, sliced, 1e-4)
    end
    local function mixed()
      pf.seed(4)
      return nn.chain { nn.embedding { vocab = 11, dim = D },
        nn.attention { dim = D, heads = H, causal = true, kernel = { features = 8 } },
        cross { attention = "exact" }, nn.linear { from = D, to = 11 } }
    end
    local _, whole = gradients(mixed(), x, memory)
    local _, sliced = gradients(mixed(), x, memory, 4)
    same(whole, sliced, 1e-4)
    assert.error_matches(function()
      local tape <close> = pf.tape()
      local made = memory:requires_grad() * 2
      decoder():backward_sliced({ input = x, target = x, memory = made }, { slices = 2 })
      tape:close()
    end, "the input 'memory' %[2, 7, 8%] was computed on the open tape")
  end)

  it("leaves nothing behind where its memory does not fit, in slices too", function()
    local m, x = decoder(), ids(64)
    local batch = { input = x, target = x, memory = pf.zeros(B, 3, D + 1) }
    local live
    for round = 1, 3 do
      for _, f in ipairs { m.backward_sliced, m.evaluate } do
        assert.error_matches(function() f(m, batch, { slice_length = 16 }) end,
          "the input 'memory'")
      end
      collectgarbage()
      collectgarbage()
      if round == 2 then live = pf.memory().live end
    end
    assert.equal(live, pf.memory().live)
  end)

  it("drops keys and weights of the memory in training, in slices too", function()
    local x, memory = ids(64), memory_of()
    for _, attention in ipairs { "favor", "exact" } do
      local m = decoder { attention = attention, attention_dropout = 0.5,
                          kernel = attention == "favor" and { features = 8 } or nil }
      local y = m(x, { memory = memory }):tobytes()
      local pass = { memory = memory, training = true, step = 3 }
      assert.is_false(y == m(x, pass):tobytes())
      assert.equal(m(x, pass):tobytes(), m(x, pass):tobytes())
    end
    local only = nn.chain { nn.embedding { vocab = 11, dim = D }, cross { attention_dropout = 0.5 },
                            nn.linear { from = D, to = 11 } }
    local loss = only:backward_sliced({ input = x, target = x, memory = memory },
      { slices = 2, step = 3 })
    local whole = only(x, { memory = memory, training = true, step = 3 }):cross_entropy(x):item()
    assert.near(whole, loss, 1e-5) -- the same keys
  end)

  it("passes the checks, with its memory in a batch", function()
    local m, batch = decoder(), { input = ids(12), memory = memory_of(), memory_mask = mask }
    assert.is_true(pf.check.streaming(m, batch) < 1e-5)
    assert.is_true(pf.check.bits(m, batch))
    assert.is_true(pf.check.saved(m, batch))
    assert.error_matches(function() pf.check.bits(m, { memory = memory_of() }) end,
      "an input %(B, L, ...%) is needed, got nil")
    local blind = nn.chain { nn.embedding { vocab = 11, dim = D }, { inputs = { "memory" },
      forward = function(_, x, p) return x + p.memory:mean(2, true):slice(1, 1, 1) end } }
    assert.error_matches(function() pf.check.bits(blind, batch) end, "item 2 alone is not what")
  end)

  it("generates from a memory", function()
    local m = decoder { layers = 1 }
    local memory = memory_of():slice(1, 1, 1)
    local said = m:generate { memory = memory, prompt = { 1, 2 }, tokens = 4, temperature = 0 }
    local row = pf.tensor({ { 1, 2, table.unpack(said) } }, i32)
    local best = m(row, { memory = memory }):argmax(-1):totable()[1]
    for t = 1, 4 do assert.equal(said[t], best[t + 1] - 1) end
  end)

  it("looks back only, to the bit, and streams as it reads, in every shape of a block", function()
    local shapes = { {}, { residual = "post" }, { residual = "rezero" }, { shared = true },
                     { token_shift = true, conv = 3, norm = "rmsnorm", reversible = true } }
    for i, o in ipairs(shapes) do
      local m, x, memory = decoder(o), ids(12), memory_of()
      for name, t in pairs(m:tensors()) do
        if name:find "scale" then t:copy_(t + 0.3) end -- rezero's begin at 0
      end
      local y = m(x, { memory = memory })
      assert.is_false(y:tobytes() == m(x, { memory = memory_of(nil, 5) }):tobytes(), i)
      local changed = pf.concat({ x:slice(2, 1, 6), pf.zeros(B, 6, i32) }, 2)
      local early = m(changed, { memory = memory }):slice(2, 1, 6)
      assert.equal(y:slice(2, 1, 6):tobytes(), early:tobytes())
      local state = m:state { batch = B, memory = memory }
      local z = m:prefill(x:slice(2, 1, 7), state)
      assert.is_true(support.distance(z, y:slice(2, 1, 7)) < 1e-5, i)
      z = m:step(x:slice(2, 8, 8):reshape(B), state)
      assert.is_true(support.distance(z, y:slice(2, 8, 8):reshape(B, 11)) < 1e-5, i)
      local hidden = m:hidden(x, { memory = memory })
      assert.equal(y:tobytes(), hidden:linear(m:tensors()["embedding.weight"]):tobytes())
    end
  end)

  it("is h + cross(norm(h)) between attention and mlp", function()
    local o = { dim = D, heads = H, causal = true, cross = true, kernel = { features = 8 } }
    local m = nn.block(o)
    local part, x, memory = {}, rows(1, B, L, D), memory_of()
    for _, c in ipairs(m:children()) do part[#part + 1] = c end
    local h = x + part[2](part[1](x))
    h = h + part[6](part[5](h), { memory = memory })
    local y = h + part[4](part[3](h))
    assert.is_true(support.distance(m(x, { memory = memory }), y) < 1e-6)
  end)

  it("gives the same bits for any number of threads", function()
    local script = [[
      pf.seed(7)
      local m = pf.nn.performer { vocab = 11, dim = 16, layers = 2, heads = 2, causal = true,
        cross = true, dropout = 0.1, kernel = { features = 16, redraw = 2 } }
      local opt = pf.optim.adamw(m, { lr = 1e-2 })
      for step = 1, 3 do
        local x = array.tensor(array.random(step):whole({ 3, 70 }, 0, 10))
        local memory = array.tensor(array.random(step):normals { 3, 150, 16 })
        local tape <close> = pf.tape()
        local loss = m(x, { memory = memory }):cross_entropy(x)
        tape:backward(loss)
        opt:step { clip = 0.5 }
        print(array.hex(loss))
      end
      for name, t in pf.sorted(m:tensors()) do print(array.hex(t)) end]]
    local first = child.run(script, "{threads = 1}")
    for _, n in ipairs { 2, 4 } do
      assert.is_true(first == child.run(script, ("{threads = %d}"):format(n)), n .. " threads")
    end
  end)
end)
