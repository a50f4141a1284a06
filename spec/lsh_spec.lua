-- lsh_spec.lua - attention in rooms, of hashes and of clusters: what collides how often, whose
-- choice depends on the past alone, layers that hash and route, and what of a first run a second
-- one finds.
-- Sums over rooms are judged in patterns_attention_spec, centroids that move in routing_spec.
local pf = require "performer"
local array = require "spec.support.array"
local child = require "spec.support.child"
local published = require "spec.support.published"
local support = require "spec.support"

local nn, i32 = pf.nn, { dtype = "i32" }

local function normals(seed, ...) return array.tensor(array.random(seed):normals { ... }) end

--- How many of n rounds put x and y (both {d}) in one bucket of b.
local function collisions(x, y, b, n)
  pf.seed(11)
  local d = #x
  local rows = pf.tensor { x, y }:reshape(1, 1, 2, d)
  local both = pf.lsh_buckets(rows, pf.randn(1, n, d, b // 2)):totable()[1][1]
  local same = 0
  for t = 1, n do same = same + (both[t][1] == both[t][2] and 1 or 0) end
  return same
end

describe("lsh_buckets", function()
  it("puts two rows at an angle a in one of 2 buckets with P = 1 - a / pi", function()
    local n = 20000
    for _, angle in ipairs { 0.1, 0.7, math.pi / 2, 2.5 } do
      local p = 1 - angle / math.pi
      local got = collisions({ 3, 0, 0 }, { math.cos(angle), math.sin(angle), 0 }, 2, n) / n
      assert.near(p, got, 4 * math.sqrt(p * (1 - p) / n))
    end
  end)

  it("makes a hash of two factors h1 + b1 h2", function()
    local x, R = normals(2, 1, 2, 90, 6), normals(3, 2, 3, 6, 4 + 5)
    local first = pf.lsh_buckets(x, R:slice(4, 1, 4)):totable()
    local second = pf.lsh_buckets(x, R:slice(4, 5, 9)):totable()
    for h, rounds in ipairs(pf.lsh_buckets(x, R, { first = 8 }):totable()[1]) do
      for t, row in ipairs(rounds) do
        for i, number in ipairs(row) do
          assert.equal(first[1][h][t][i] + 8 * second[1][h][t][i], number)
        end
      end
    end
  end)

  it("tells near from far with many buckets", function()
    local function share(angle)
      return collisions({ 1, 0, 0, 0 }, { math.cos(angle), math.sin(angle), 0, 0 }, 64, 4000) / 4000
    end
    local near, far = share(0.3), share(2)
    assert.is_true(near > 0.5 and far < 0.02, near .. ", " .. far)
  end)
end)

-- ---- layers ------------------------------------------------------------------------------

local D, H, L = 12, 3, 150
local KINDS = {
  lsh = { name = "lsh", window = 9, rounds = 3, buckets = 6 },
  ["lsh, counted"] = { name = "lsh", window = 9, rounds = 3, buckets = 4, pairs = "count" },
  ["lsh, of two factors"] = { name = "lsh", window = 30, rounds = 2, buckets = 144 },
  routing = { name = "routing", window = 9, clusters = 5 },
  ["routing, q and k apart"] = { name = "routing", window = 9, clusters = 5, tied = false },
}

local function layer(attention, more)
  local o = { dim = D, heads = H, attention = attention, causal = true, rotary = true }
  for key, value in pairs(more or {}) do o[key] = value end
  pf.seed(3)
  return nn.attention(o)
end

--- x (B, L, D) with rows from `first` on replaced.
local function with_end(x, first, value)
  return pf.concat({ x:slice(2, 1, first - 1),
                     pf.full({ x:size(1), x:size(2) - first + 1, D }, value) }, 2)
end

for name, attention in pairs(KINDS) do
  describe("a layer of " .. name, function()
    local m, x = layer(attention), normals(5, 2, L, D)

    it("lets nothing later choose what a position sees", function()
      local y = m(x)
      for _, first in ipairs { 2, 40, 129, L } do
        for _, value in ipairs { 0 / 0, 1 / 0, 1e30, 0.5 } do
          assert.bits_equal(y:slice(2, 1, first - 1), m(with_end(x, first, value)):slice(2, 1,
            first - 1))
        end
        assert.bits_equal(y:slice(2, 1, first - 1), m(x:slice(2, 1, first - 1)))
      end
    end)

    it("has gradients of the past that nothing later changes", function()
      local function gradient(rows, first)
        rows = rows:detach():requires_grad()
        local tape <close> = pf.tape()
        tape:backward(m(rows):slice(2, 1, first - 1):square():sum())
        local g = rows:grad():detach()
        for _, p in ipairs(m:parameters()) do p:clear_grad() end
        return g:slice(2, 1, first - 1)
      end
      for _, first in ipairs { 40, 130 } do
        assert.bits_equal(gradient(x, first), gradient(with_end(x, first, 0.5), first))
      end
    end)

    it("treats a row of a batch, and a packed document, as if it were alone", function()
      local y = m(x)
      assert.bits_equal(y:slice(1, 2, 2), m(x:slice(1, 2, 2)))
      local numbers = {}
      for b = 1, 2 do
        numbers[b] = {}
        for l = 1, L do numbers[b][l] = l <= 61 and 7 or 8 end
      end
      local packed = m(x, { documents = pf.tensor(numbers, i32) })
      assert.bits_equal(m(x:slice(2, 1, 61)), packed:slice(2, 1, 61))
      assert.bits_equal(m(x:slice(2, 62, L)), packed:slice(2, 62, L))
    end)

    it("gives padding no place in a room", function()
      local keep = {}
      for b = 1, 2 do
        keep[b] = {}
        for l = 1, L do keep[b][l] = l > 50 and 1 or 0 end
      end
      local own = layer(attention, { rotary = false })
      local y = own(pf.concat({ pf.full({ 2, 50, D }, 3), x:slice(2, 51, L) }, 2),
        { mask = pf.tensor(keep, i32) })
      assert.bits_equal(own(x:slice(2, 51, L)), y:slice(2, 51, L))
    end)

    it("streams as it reads whole rows", function()
      pf.seed(3)
      local model = nn.performer { vocab = 11, dim = D, heads = H, layers = 2, causal = true,
                                   attention = attention, positions = "rotary" }
      local ids = array.tensor(array.random(8):whole({ 2, L + 50 }, 0, 10))
      local state, parts = model:state { batch = 2 }, {}
      parts[1] = model:prefill(ids:slice(2, 1, 125), state)
      for t = 126, 140 do
        if t == 133 then state = state:fork() end
        parts[#parts + 1] = model:step(ids:slice(2, t, t):reshape(2), state):reshape(2, 1, 11)
      end
      parts[#parts + 1] = model:prefill(ids:slice(2, 141, L + 50), state)
      assert.near_tensor(model(ids), pf.concat(parts, 2), 1e-5)
    end)

    it("comes back from a file with its table", function()
      local folder <close> = setmetatable({ path = support.folder() },
        { __close = function(f) support.remove(f.path) end })
      pf.checkpoint.save(folder.path .. "/m", { model = m })
      pf.seed(77)
      local loaded = pf.checkpoint.load(folder.path .. "/m").model
      assert.bits_equal(m(x), loaded(x))
    end)

    it("has the bits of one thread on any number", function()
      local words = {}
      for key, value in pairs(attention) do words[#words + 1] = ("%s = %q"):format(key, value) end
      local code = ([[
        pf.seed(3)
        local own = { %s }
        local m = pf.nn.attention { dim = 12, heads = 3, attention = own, causal = true }
        local x = array.tensor(array.random(5):normals { 2, 300, 12 }):requires_grad()
        local tape <close> = pf.tape()
        local y = m(x)
        tape:backward(y:square():sum())
        for _, t in ipairs { y, x:grad() } do
          for _, a in ipairs(t:reshape(t:numel()):totable()) do io.write(("%%a "):format(a)) end
        end]]):format(table.concat(words, ", "))
      local one = child.run(code, "{ threads = 1 }")
      assert.equal(one, child.run(code, "{ threads = 3 }"))
    end)
  end)
end

describe("a layer of lsh", function()
  it("is its parts, hashed before positions turn them", function()
    local m, x = layer(KINDS.lsh, { qk_norm = true, bias = true }), normals(9, 2, 70, D)
    local t, d = m:tensors(), D // H
    local function heads(rows) return rows:reshape(2, 70, H, d):transpose(2, 3) end
    local qv = pf.linear(x, t["qv.weight"], t["qv.bias"])
    local q = pf.rmsnorm(heads(qv:slice(3, 1, D)), t.q_norm, { eps = 1e-6 })
    local k = q / q:square():sum(-1):sqrt():reshape(2, H, 70, 1)
    local rooms = pf.lsh_buckets(k, t.rotations)
    assert.same({ 2, H, 3, 70 }, rooms:shape())
    local turn = { base = 10000, halves = true }
    local out = pf.attention.lsh(pf.rotary(q, turn), pf.rotary(k, turn), heads(qv:slice(3, D + 1,
      2 * D)), { causal = true, window = 9, rooms = rooms })
    out = pf.linear(out:transpose(2, 3):reshape(2, 70, D), t["out.weight"], t["out.bias"])
    assert.near_tensor(out, m(x), 1e-5)
    assert.is_nil(t.k_norm)
  end)

  it("draws its rotations for its place, and more rounds begin with fewer", function()
    local function rotations(rounds, place)
      local own = { name = "lsh", rounds = rounds, buckets = 8 }
      return layer(own, { layer = place }):tensors().rotations
    end
    local few, many = rotations(2, 1), rotations(5, 1)
    assert.bits_equal(few, many:slice(2, 1, 2))
    assert.is_true((few - rotations(2, 2)):abs():max():item() > 0.1)
    local flat = many:reshape(many:numel())
    assert.near(1, flat:square():mean():item(), 0.2)
  end)

  it("refuses what it can't be", function()
    local function refused(text, attention, more)
      assert.raises(text, function() layer(attention, more) end)
    end
    refused("kv_heads 1 must be heads 3", "lsh", { kv_heads = 1 })
    refused("buckets is 7, but a hash has two sides", { name = "lsh", buckets = 7 })
    assert.raises("looks from each position's own room", function()
      nn.cross_attention { dim = D, heads = H, attention = "lsh" }
    end)
    local q = normals(1, 1, 2, 9, 4)
    assert.raises("9 queries can't look at 4 keys", function()
      pf.attention.lsh(q, q:slice(3, 1, 4), q:slice(3, 1, 4), { rooms = pf.zeros(1, 2, 1, 4, i32) })
    end)
    assert.raises("rooms", function() pf.attention.exact(q, q, q, { rooms = q }) end)
    assert.raises("rooms of lsh attention are given, or told by a table", function()
      local rooms, rotations = pf.zeros(1, 2, 1, 9, i32), pf.zeros(2, 1, 4, 2)
      pf.attention.lsh(q, q, q, { rooms = rooms, rotations = rotations })
    end)
  end)

  it("is not led by the last token, as the published form is", function()
    local d, size = 8, 16
    local R, v = normals(41, 1, 1, d, 4), normals(42, 1, 1, 128, 3)
    local x = normals(43, 1, 1, 128, d)
    local y = pf.concat({ x:slice(3, 1, 127), normals(44, 1, 1, 1, d) }, 3)
    local chunks, own = {}, {}
    for n, q in ipairs { x, y } do
      local k = q / q:square():sum(-1):sqrt():reshape(1, 1, 128, 1)
      local rooms = pf.lsh_buckets(k, R)
      local out = published.chunks { qk = q[1][1]:totable(), v = v[1][1]:totable(), size = size,
                                     buckets = rooms[1][1][1]:totable(), causal = true, scale = 1 }
      chunks[n] = pf.tensor(out):slice(1, 1, 127)
      own[n] = pf.attention.lsh(q, k, v, { causal = true, window = size, rooms = rooms })
    end
    assert.is_true((chunks[1] - chunks[2]):abs():max():item() > 0.01)
    assert.bits_equal(own[1]:slice(3, 1, 127), own[2]:slice(3, 1, 127))
  end)

  it("sees the same as the published form where that is all", function()
    -- One chunk and the one before it are all there is, and so is one bucket.
    local q, v = normals(21, 1, 1, 32, 4), normals(22, 1, 1, 32, 3)
    local k, rooms, same = q / q:square():sum(-1):sqrt():reshape(1, 1, 32, 1), {}, {}
    for i = 1, 32 do rooms[i], same[i] = (i * 7) % 5, 0 end
    for _, causal in ipairs { true, false } do
      local want = published.chunks { qk = q[1][1]:totable(), v = v[1][1]:totable(), size = 16,
                                      buckets = rooms, causal = causal, scale = 1 }
      local got = pf.attention.lsh(q, k, v, { causal = causal, window = 32,
                                              rooms = pf.tensor({ { { same } } }, i32) })
      assert.near_tensor(pf.tensor(want), got[1][1], 2e-6)
    end
  end)
end)

-- ---- second runs -------------------------------------------------------------------------

describe("a run that is repeated for its gradient", function()
  local ids = array.random(31):whole({ 2, 64 }, 0, 16)
  local batch = { input = array.tensor(ids), target = array.tensor(ids) }

  local function model_of(attention, more)
    local o = { vocab = 17, dim = D, layers = 3, heads = H, causal = true, attention = attention }
    for key, value in pairs(more) do o[key] = value end
    pf.seed(4)
    return nn.performer(o)
  end

  --- Gradients by name; `between` is called before backward.
  local function gradients(model, between)
    local grads = {}
    do
      local tape <close> = pf.tape()
      local loss = model(batch.input, { training = true, step = 1 }):cross_entropy(batch.target)
      if between then between() end
      tape:backward(loss)
    end
    local list, names = model:parameters()
    for i, p in ipairs(list) do
      grads[names[i]] = p:grad():detach()
      p:clear_grad()
    end
    return grads
  end

  --- Other rotations, or centroids, than the forward had.
  local function change_tables(model)
    for name, t in pairs(model:tensors()) do
      if name:find "rotations" or name:find "centroids" then
        t:copy_(pf.randn(table.unpack(t:shape())))
      end
    end
  end

  for name, attention in pairs(KINDS) do
    it(name .. ": finds the rooms of the first, reversible", function()
      local model = model_of(attention, { reversible = true })
      local once = gradients(model)
      for p, grad in pairs(gradients(model, function() change_tables(model) end)) do
        assert.bits_equal(once[p], grad)
      end
    end)

    it(name .. ": has the gradients of the form that keeps all, reversible", function()
      pf.seed(4)
      local options = { dim = D, heads = H, causal = true, attention = attention }
      local first, second = nn.block(options), nn.block(options)
      local both, x = nn.reversible { first, second }, normals(6, 2, 64, D):requires_grad()
      local function plain()
        local a, b = x, x
        for _, block in ipairs { first, second } do
          local norm1, attend, norm2, mlp = table.unpack(block:children())
          a = a + attend(norm1(b))
          b = b + mlp(norm2(a))
        end
        return (a + b) * 0.5
      end
      local grads = {}
      for n, f in ipairs { plain, function() return both(x, { training = true }) end } do
        do
          local tape <close> = pf.tape()
          tape:backward(f():square():sum())
        end
        grads[n] = { x = x:grad():detach() }
        x:clear_grad()
        local list, names = both:parameters()
        for k, p in ipairs(list) do
          grads[n][names[k]] = p:grad():detach()
          p:clear_grad()
        end
      end
      for p, grad in pairs(grads[2]) do
        assert.is_true(support.distance(grads[1][p], grad) < 1e-5, p)
      end
    end)

    it(name .. ": has the bits of one that is not, recomputed", function()
      local plain = gradients(model_of(attention, {}))
      for p, grad in pairs(gradients(model_of(attention, { recompute = true }))) do
        assert.bits_equal(plain[p], grad)
      end
    end)
  end
end)

describe("a state of attention alone", function()
  local CUTS = { 1, 1, 64, 1, 70, 13 } -- L in all

  local function streamed(state, q, k, v, first)
    local parts, at = {}, first
    for _, n in ipairs(CUTS) do
      local last = math.min(at + n - 1, L)
      if last >= at then
        local f = at == last and state.step or state.prefill
        parts[#parts + 1] = f(state, q:slice(3, at, last), k:slice(3, at, last),
                              v:slice(3, at, last))
        at = last + 1
      end
    end
    return pf.concat(parts, 3)
  end

  for name, attention in pf.sorted(KINDS) do
    it("tells its rooms as a call does, and keeps what tells them: " .. name, function()
      pf.seed(4)
      local q, v = normals(3, 2, 2, L, D), normals(4, 2, 2, L, D)
      local k = attention.tied == false and normals(5, 2, 2, L, D) or q / q:square():sum(-1):sqrt()
        :reshape(2, 2, L, 1)
      local own = { causal = true }
      for key, value in pairs(attention) do own[key] = value end
      own.name = nil
      local want = pf.attention[attention.name](q, k, v, own)
      local function open(more)
        local o = { attention = attention, batch = 2, heads = 2, head_dim = D }
        for key, value in pairs(more or {}) do o[key] = value end
        return pf.attention.state(o)
      end
      assert.near_tensor(want, streamed(open(), q, k, v, 1), 1e-5)
      local state, folder = open(), support.folder()
      finally(function() support.remove(folder) end)
      state:prefill(q:slice(3, 1, 70), k:slice(3, 1, 70), v:slice(3, 1, 70))
      assert(state:save(folder .. "/state"))
      pf.seed(77) -- what the seed draws from now on is another table
      local later = open()
      local table_name = attention.name == "lsh" and "rotations" or "centroids"
      assert.raises("the two differ in " .. table_name, function() state:merge(later) end)
      local rest = want:slice(3, 71, L)
      for _, s in ipairs { state:fork(), state, assert(pf.attention.load_state(folder .. "/state")),
          assert(pf.attention.load_state(folder .. "/state", { attention = attention })) } do
        assert.near_tensor(rest, streamed(s, q, k, v, 71), 1e-5)
      end
      pf.seed(4)
      local first, second = open(), open()
      first:prefill(q:slice(3, 1, 70), k:slice(3, 1, 70), v:slice(3, 1, 70))
      second:prefill(q:slice(3, 71, 100), k:slice(3, 71, 100), v:slice(3, 71, 100))
      first:merge(second)
      assert.near_tensor(want:slice(3, 101, L), streamed(first, q, k, v, 101), 1e-5)
    end)
  end

  it("takes a table, and says what does not go together", function()
    local q, v = normals(3, 1, 2, 20, D), normals(4, 1, 2, 20, D)
    local R, mu = pf.randn(2, 3, D, 4), pf.randn(2, 5, D)
    for name, o in pairs { lsh = { rotations = R }, routing = { centroids = mu } } do
      local state = pf.attention.state { attention = name, heads = 2, head_dim = D,
                                         rotations = o.rotations, centroids = o.centroids }
      o.causal = true
      assert.near_tensor(pf.attention[name](q, q, v, o), state:prefill(q, q, v), 1e-5)
    end
    local function refused(text, o)
      o.heads, o.head_dim = o.heads or 2, D
      assert.raises(text, function() pf.attention.state(o) end)
    end
    refused("rounds is 2, but the rotations are of 3", { attention = "lsh", rounds = 2,
                                                         rotations = R })
    refused("must be for 1 heads of width", { attention = "lsh", heads = 1, rotations = R })
    refused("unknown option 'rotations'", { attention = "routing", rotations = R })
    refused("rotations must be a tensor", { attention = "lsh", rotations = 3 })
    refused("'rate' is for layers, which train", { attention = "routing", rate = 0.1 })
    assert.raises("queries and keys have as many heads", function()
      pf.attention.state({ attention = "lsh", heads = 1, head_dim = D }):prefill(q,
        q:slice(2, 1, 1), v:slice(2, 1, 1))
    end)
  end)
end)
