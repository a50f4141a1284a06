-- projection_spec.lua - the random projections: what each kind of rows is, that estimates made
-- with them have no bias (and that a biased draw would be seen), how large their error is, what
-- they are drawn from, and how they live in a model. Hadamard factors in the operator.
local pf = require "performer"
local core = require "performer.core"
local support = require "spec.support"

local nn = pf.nn
local KINDS = { "orthogonal", "iid", "hadamard", "simplex" }

local function draw(options) return core.draw_projection(options):detach() end

--- Mean of a tensor of independent numbers, and its standard error.
local function mean_of(x)
  local mean = x:mean():item()
  return mean, math.sqrt((x * x):mean():item() - mean * mean) / math.sqrt(x:numel())
end

local function row(t) return pf.tensor { t } end

--- W (draws, m, d), z a list: for each draw the mean over its rows of exp(w.z - |z|^2 / 2),
--- whose mean is 1 where rows are N(0, I): the ratio of an estimate to exp(x.y), z = x + y.
local function ratios(W, z)
  local square = 0
  for _, value in ipairs(z) do square = square + value * value end
  local u = W:matmul(row(z):reshape(#z, 1)):reshape(W:size(1), W:size(2))
  return (u - square / 2):exp():mean(2)
end

--- The list z with |z|^2 = `square`; negative: times -1.
local function scaled(z, square, negative)
  local sum, out = 0, {}
  for _, value in ipairs(z) do sum = sum + value * value end
  local factor = math.sqrt(square / sum) * (negative and -1 or 1)
  for i, value in ipairs(z) do out[i] = factor * value end
  return out
end

-- ---- kinds of rows --------------------------------------------------------------------------

describe("the rows of a block", function()
  --- The largest |cos| of two rows, and the smallest and largest cos, within blocks of d rows.
  local function cosines(W)
    local m, d = W:size(1), W:size(2)
    local G = W:matmul(W:transpose(1, 2)):totable()
    local low, high = 1, -1
    for a = 1, m do
      for b = (a - 1) // d * d + 1, a - 1 do
        local cosine = G[a][b] / math.sqrt(G[a][a] * G[b][b])
        low, high = math.min(low, cosine), math.max(high, cosine)
      end
    end
    return low, high
  end

  it("are orthogonal to 1e-6: orthogonal and hadamard, whatever the width", function()
    for _, d in ipairs { 1, 2, 3, 7, 8, 24, 33, 40, 64, 96 } do
      for _, rows in ipairs { "orthogonal", "hadamard" } do
        local W = draw { features = 2 * d + (d + 1) // 2, head_dim = d, seed = d, rows = rows }
        local low, high = cosines(W)
        if d > 1 then assert.is_true(low > -1e-6 and high < 1e-6, ("%s %d"):format(rows, d)) end
      end
    end
  end)

  it("are the corners of a regular simplex: each pair at -1 / (n - 1)", function()
    for _, d in ipairs { 2, 5, 16, 64 } do
      for _, n in ipairs { d, math.max(2, d // 2) } do
        local W = draw { features = n, head_dim = d, seed = d, rows = "simplex" }
        local low, high = cosines(W)
        assert.is_true(low > -1 / (n - 1) - 1e-6 and high < -1 / (n - 1) + 1e-6,
          ("d %d, n %d: %.8f to %.8f"):format(d, n, low, high))
      end
    end
    assert.same({ 1, 4 }, { table.unpack(draw { features = 1, head_dim = 4,
      rows = "simplex" }:shape()) })
  end)

  it("have the norms that were asked for", function()
    local d = 16
    for _, rows in ipairs(KINDS) do
      local o = { features = 40, head_dim = d, heads = 512, seed = 3, rows = rows }
      local squares = (draw(o) ^ 2):sum(-1)
      local mean, deviation = mean_of(squares)
      assert.is_true(math.abs(mean - d) < 4.5 * deviation, rows) -- chi squared: mean d,
      local spread, of_spread = mean_of((squares - d) ^ 2) -- variance 2 d
      assert.is_true(math.abs(spread - 2 * d) < 4.5 * of_spread, rows)
      o.norms = "sqrt_d"
      squares = (draw(o) ^ 2):sum(-1)
      assert.is_true((squares - d):abs():max():item() < 1e-4, rows)
    end
  end)

  it("are N(0, I), each by itself", function()
    for _, rows in ipairs(KINDS) do
      for _, d in ipairs { 16, 24 } do
        local W = draw { features = d, head_dim = d, heads = 2048, seed = 7, rows = rows }
        local flat = W:reshape(2048 * d, d)
        local n = flat:size(1)
        local moments = flat:transpose(1, 2):matmul(flat) / n
        local worst = (moments - pf.tensor((function()
          local I = {}
          for i = 1, d do
            I[i] = {}
            for j = 1, d do I[i][j] = i == j and 1 or 0 end
          end
          return I
        end)())):abs():max():item()
        -- A product of two entries has variance 1 (2 on the diagonal); d (d + 1) / 2 of them.
        assert.is_true(worst < 5 * math.sqrt(2 / n), ("%s covariance off by %.4f"):format(rows,
          worst))
        -- Each row by itself looks in all directions alike: squares of entries have mean 1,
        -- variance 2 at most.
        local off = ((W * W):mean(1) - 1):abs():max():item()
        assert.is_true(off < 5.5 * math.sqrt(2 / 2048), ("%s: a square's mean off by %.3f"):format(
          rows, off))
        for power, want in pairs { [1] = 0, [3] = 0, [4] = 3 } do
          -- Moments of each row's first entry; hadamard's fourth is 8 / d^2 too small.
          local mean, deviation = mean_of(flat:slice(2, 1, 1) ^ power)
          local slack = rows == "hadamard" and power == 4 and 16 / d ^ 2 or 0
          assert.is_true(math.abs(mean - want) < 4.5 * deviation + slack,
            ("%s: moment %d is %.4f"):format(rows, power, mean))
        end
      end
    end
  end)

  it("of hadamard stay near no axis, whatever the width", function()
    -- The mean of an entry's fourth power on the sphere of radius sqrt(d) is 3 d / (d + 2). Without
    -- the permutations between the rounds some entries of d = 7 have half of it.
    for _, d in ipairs { 5, 6, 7 } do
      local W = draw { features = d, head_dim = d, heads = 8192, seed = 7, rows = "hadamard",
                       norms = "sqrt_d" }
      local share = (W ^ 4):mean(1) / (3 * d / (d + 2))
      local off = (share - 1):abs():max():item()
      assert.is_true(off < 0.1, ("d = %d: a fourth moment off by %.3f"):format(d, off))
    end
  end)
end)

-- ---- bias -----------------------------------------------------------------------------------

describe("an estimate", function()
  local Z = { 0.9, 0.7, 0.4, 0.6, 0.5, 0.8, 0.2, 0.6 }

  --- How many standard errors the mean ratio is from 1.
  local function sigmas(W, z)
    local mean, deviation = mean_of(ratios(W, z))
    return (mean - 1) / deviation, deviation
  end

  it("has no bias, for z and for -z, with rows of any kind", function()
    for _, rows in ipairs(KINDS) do
      for _, d in ipairs { 8, 16, 12 } do
        if d > 8 or rows ~= "hadamard" then
          local z = {}
          for i = 1, d do z[i] = Z[(i - 1) % #Z + 1] end
          local W = draw { features = d, head_dim = d, heads = 16384, seed = 11 + d, rows = rows }
          for _, negative in ipairs { false, true } do
            local off, deviation = sigmas(W, scaled(z, 1, negative))
            assert.is_true(deviation < 0.006)
            assert.is_true(math.abs(off) < 4, ("%s, d %d: %.2f standard errors"):format(rows, d,
              off))
          end
        end
      end
    end
  end)

  --- The Q of LAPACK's QR of a (d, d), as rows of Q^T: Householder with its signs, where R's
  --- diagonal is negative for a positive leading entry, and the last reflection is none.
  local function lapack_rows(a, d)
    local q = {}
    for i = 1, d do
      q[i] = {}
      for j = 1, d do q[i][j] = i == j and 1 or 0 end
    end
    local function reflect(m, v, first) -- m <- (I - 2 v v^T) m, v unit, rows `first` ..
      for j = 1, d do
        local along = 0
        for i = first, d do along = along + v[i] * m[i][j] end
        for i = first, d do m[i][j] = m[i][j] - 2 * along * v[i] end
      end
    end
    for k = 1, d - 1 do
      local v, length = {}, 0
      for i = k, d do v[i] = a[i][k] length = length + v[i] * v[i] end
      v[k] = v[k] + (v[k] >= 0 and 1 or -1) * math.sqrt(length)
      length = 0
      for i = k, d do length = length + v[i] * v[i] end
      for i = k, d do v[i] = v[i] / math.sqrt(length) end
      reflect(a, v, k)
      reflect(q, v, k) -- H_k ... H_1 = Q^T
    end
    return q
  end

  it("made with LAPACK's signs is seen to be biased", function()
    local d, n = 8, 3000
    pf.seed(5)
    local gaussians = pf.randn(n, d, d):totable()
    local directions = {}
    for i = 1, n do directions[i] = lapack_rows(gaussians[i], d) end
    local lengths = (pf.randn(n, d, d) ^ 2):sum(-1):sqrt():reshape(n, d, 1)
    local Q = pf.tensor(directions)
    local G = Q:matmul(Q:transpose(2, 3)) -- orthonormal, whatever the signs
    assert.is_true(math.abs((G ^ 2):sum():item() / (n * d) - 1) < 1e-5)
    local signs = pf.tensor((function()
      local list = {}
      local random = pf.rand(n, d):totable()
      for i = 1, n do
        list[i] = {}
        for j = 1, d do list[i][j] = { random[i][j] < 0.5 and -1 or 1 } end
      end
      return list
    end)())
    for _, negative in ipairs { false, true } do
      local z = scaled(Z, 0.98, negative)
      local off = sigmas(Q * lengths, z)
      assert.is_true(math.abs(off) > 8, ("only %.2f standard errors"):format(off))
      assert.is_true((off < 0) == not negative)
      assert.is_true(math.abs(sigmas(Q * lengths * signs, z)) < 4, "with random signs")
    end
  end)
end)

-- ---- error ----------------------------------------------------------------------------------

describe("the mean square error of an estimate", function()
  local d, draws = 16, 16384
  local Z = {}
  for i = 1, d do Z[i] = math.cos(i) end

  --- Relative MSE of m features at |z|^2, and its standard error.
  local function error_of(rows, m, square)
    local W = draw { features = m, head_dim = d, heads = draws, seed = 23, rows = rows }
    return mean_of((ratios(W, scaled(Z, square)) - 1) ^ 2)
  end

  it("is below that of independent rows, and keeps the proven bound", function()
    for _, m in ipairs { 4, 16 } do
      for _, square in ipairs { 0.25, 1 } do
        local iid = (math.exp(square) - 1) / m
        local gain = 2 * (m - 1) / (m * (d + 2)) * (1 - math.exp(-square / 2)) ^ 2
        local measured, deviation = error_of("iid", m, square)
        assert.is_true(math.abs(measured - iid) < 4.5 * deviation)
        for _, rows in ipairs { "orthogonal", "hadamard" } do
          local mse, of_mse = error_of(rows, m, square)
          assert.is_true(mse < iid - gain + 4 * of_mse, ("%s: %.5f"):format(rows, mse))
        end
        local mse, of_mse = error_of("orthogonal", m, square)
        if m == d then assert.is_true(mse + 4 * of_mse < iid) end
      end
    end
  end)

  it("is printed for every kind at equal cost, simplex below orthogonal at small norms", function()
    local lines = { ("relative MSE of exp(x.y) over that of iid rows, d %d, m %d, %d draws"):format(
      d, d, draws), "|x+y|^2      orthogonal        hadamard         simplex" }
    for _, square in ipairs { 0.25, 0.5, 1, 2 } do
      local iid, cells, mse, of_mse = (math.exp(square) - 1) / d, {}, {}, {}
      for i, rows in ipairs { "orthogonal", "hadamard", "simplex" } do
        mse[rows], of_mse[rows] = error_of(rows, d, square)
        cells[i] = ("%.3f +- %.3f"):format(mse[rows] / iid, of_mse[rows] / iid)
      end
      lines[#lines + 1] = ("%7.2f   %s"):format(square, table.concat(cells, "   "))
      local noise = 4 * (of_mse.simplex + of_mse.orthogonal)
      assert.is_true(mse.simplex < mse.orthogonal + (square > 1 and noise or -noise / 4))
    end
    print("\n" .. table.concat(lines, "\n"))
  end)
end)

-- ---- keys -----------------------------------------------------------------------------------

describe("a draw", function()
  it("depends on seed, layer, head and epoch, and on nothing else", function()
    for _, rows in ipairs(KINDS) do
      local function bits(changed)
        local o = { features = 12, head_dim = 8, heads = 2, seed = 1, layer = 2, epoch = 3,
                    rows = rows }
        for name, value in pairs(changed or {}) do o[name] = value end
        return draw(o):tobytes()
      end
      local first = bits()
      pf.randn(10)
      assert.are.equal(first, bits())
      for name in pairs { seed = 1, layer = 1, epoch = 1 } do
        assert.are_not.equal(first, bits { [name] = 9 }, name)
      end
      local half = #first // 2
      assert.are_not.equal(first:sub(1, half), first:sub(half + 1))
      -- A head's rows don't know how many heads there are; one for all is the first head's.
      assert.are.equal(first, bits({ heads = 5 }):sub(1, #first))
      local o = { features = 12, head_dim = 8, seed = 1, layer = 2, epoch = 3, rows = rows }
      assert.are.equal(first:sub(1, half), draw(o):tobytes())
    end
  end)

  it("refuses what it does not know", function()
    for _, try in ipairs {
      { { features = 0, head_dim = 4 }, "features %(0%)" },
      { { features = 4, head_dim = 5000 }, "head_dim 5000" },
      { { features = 4, head_dim = 4, rows = "given" }, "rows must be one of orthogonal" },
      { { features = 4, head_dim = 4, norms = "one" }, "norms must be one of chi" },
    } do
      local ok, message = pcall(core.draw_projection, try[1])
      assert.is_false(ok)
      assert.matches(try[2], tostring(message))
    end
    assert.is_false(pcall(core.draw_factors, { features = 4, head_dim = 4 }))
    assert.is_false(pcall(pf.kernel.softmax, { rows = "hadamart" }))
  end)
end)

-- ---- Hadamard factors -----------------------------------------------------------------------

describe("Hadamard factors", function()
  local shapes = { { 64, 256 }, { 64, 100 }, { 96, 200 }, { 128, 128 }, { 65, 130 } }
  local H = 2

  local function inputs(d, L, seed)
    pf.seed(seed)
    local size = d ^ -0.25 * 1.5
    return size * pf.randn(2, H, L, d), size * pf.randn(2, H, L, d), pf.randn(2, H, L, 24)
  end

  --- out and the gradients of q, k, v.
  local function run(W, factors, q, k, v, causal)
    local x = { q:detach(), k:detach(), v:detach() }
    for _, t in ipairs(x) do t:requires_grad() end
    local tape <close> = pf.tape()
    local out = pf.favor(x[1], x[2], x[3], { projection = W, factors = factors, causal = causal })
    tape:backward((out * out):sum() + out:sum())
    return { out:detach(), x[1]:grad(), x[2]:grad(), x[3]:grad() }
  end

  it("give what the matrix gives, forward and backward", function()
    for i, shape in ipairs(shapes) do
      local d, m = shape[1], shape[2]
      local o = { features = m, head_dim = d, heads = H, seed = i, rows = "hadamard" }
      local W, factors = draw(o), core.draw_factors(o):detach()
      local q, k, v = inputs(d, 150, i)
      for _, causal in ipairs { false, true } do
        local want, got = run(W, nil, q, k, v, causal), run(W, factors, q, k, v, causal)
        for j, t in ipairs(want) do
          local off = (t - got[j]):abs():max():item() / t:abs():max():item()
          assert.is_true(off > 0, "another way, other roundings")
          assert.is_true(off < 1e-4 and (j > 1 or off < 1e-5), ("%d: %.2g"):format(j, off))
        end
      end
    end
  end)

  it("keep a row's bits whatever follows it", function()
    local o = { features = 256, head_dim = 64, seed = 1, rows = "hadamard" }
    local W, factors = draw(o), core.draw_factors(o):detach()
    local q, k, v = inputs(64, 150, 9)
    local options = { projection = W, factors = factors, causal = true }
    local whole = pf.favor(q, k, v, options)
    for _, n in ipairs { 1, 63, 65, 101 } do
      local part = pf.favor(q:slice(3, 1, n), k:slice(3, 1, n), v:slice(3, 1, n), options)
      assert.bits_equal(whole:slice(3, 1, n):reshape(2 * H * n, 24), part:reshape(2 * H * n, 24))
    end
  end)

  it("that don't belong to the matrix, or are broken, count for nothing", function()
    local o = { features = 128, head_dim = 64, heads = H, seed = 1, rows = "hadamard" }
    local W, q, k, v = draw(o), inputs(64, 70, 3)
    local plain = pf.favor(q, k, v, { projection = W })
    o.seed = 2
    local stale = core.draw_factors(o):detach()
    for _, factors in ipairs { stale, stale * 0, stale * 1e9, stale * (0 / 0) } do
      assert.bits_equal(plain, pf.favor(q, k, v, { projection = W, factors = factors }))
    end
    assert.raises("factors must be %[2, 4, 64%], or such a one a head", function()
      pf.favor(q, k, v, { projection = W, factors = pf.zeros(H, 3, 4, 64) })
    end)
  end)

  it("are a kernel's where they are worth it", function()
    local q, k, v = inputs(64, 40, 4)
    local kernel = pf.kernel.softmax { rows = "hadamard", features = 128, seed = 6 }
    local o = { features = 128, head_dim = 64, heads = H, seed = 6, rows = "hadamard" }
    local fast = pf.favor(q, k, v, { projection = draw(o), factors = core.draw_factors(o) })
    assert.bits_equal(fast, pf.attention.favor(q, k, v, { kernel = kernel }))
    assert.matches("128 positive hadamard features", tostring(kernel))
    local small = nn.attention { dim = 32, heads = 2, kernel = { rows = "hadamard" } }
    assert.is_nil(small:tensors().projection_factors)
  end)
end)

-- ---- in a model -----------------------------------------------------------------------------

describe("a model's projection", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  local REDRAW = 3

  local function new(kernel)
    pf.seed(31)
    local model = nn.performer { vocab = 9, dim = 128, layers = 2, heads = 2, length = 12,
      causal = true, kernel = kernel }
    return model, pf.optim.adamw(model, { lr = 1e-3 })
  end

  --- Steps first .. last; the losses as text.
  local function train(model, opt, first, last)
    local losses = {}
    for step = first, last do
      local ids = {}
      for i = 1, 12 do ids[i] = (step * i + i * i) % 9 end
      local tape <close> = pf.tape()
      local x = pf.tensor({ ids }, { dtype = "i32" })
      local loss = model(x):cross_entropy(x)
      tape:backward(loss)
      opt:step { lr = 1e-3 }
      losses[#losses + 1] = ("%a"):format(loss:item())
    end
    return table.concat(losses, " ")
  end

  local function projections(model)
    local found = {}
    for name, t in pf.sorted(model:tensors()) do
      if name:find "projection" then found[#found + 1] = t:tobytes() end
    end
    return found
  end

  for _, rows in ipairs(KINDS) do
    it("goes on with the same bits after a redraw and a restart: " .. rows, function()
      local kernel = { name = "softmax", features = 96, redraw = REDRAW, rows = rows, seed = 8 }
      local model, opt = new(kernel)
      local first = projections(model)
      assert.are.equal(rows == "hadamard" and 4 or 2, #first)
      train(model, opt, 1, 4)
      local fourth = projections(model)
      for i, bits in ipairs(first) do assert.are_not.equal(bits, fourth[i]) end
      -- The epoch follows from the step; every layer and head has its own rows.
      local o = { features = 96, head_dim = 64, heads = 2, seed = 8, rows = rows, epoch = 1 }
      local tensors = model:tensors()
      for layer = 0, 1 do
        o.layer = layer
        local want, seen = draw(o):tobytes(), false
        for _, t in pairs(tensors) do seen = seen or t:tobytes() == want end
        assert.is_true(seen, "layer " .. layer)
      end
      assert(pf.checkpoint.save(folder .. "/run", { model = model, optimizer = opt }))
      local rest = train(model, opt, 5, 7)
      local last = projections(model)
      pf.seed(999)
      local saved = assert(pf.checkpoint.load(folder .. "/run"))
      assert.same(fourth, projections(saved.model))
      assert.are.equal(4, saved.state.step)
      assert.are.equal(rest, train(saved.model, saved.optimizer, 5, 7))
      assert.same(last, projections(saved.model))
    end)
  end

  it("is frozen in evaluation", function()
    local model, opt = new { features = 16, redraw = 1 }
    train(model, opt, 1, 1)
    local before = projections(model)
    local ids = pf.tensor({ { 1, 2, 3 } }, { dtype = "i32" })
    local a = model(ids)
    for _ = 1, 3 do assert.bits_equal(a, model(ids)) end
    assert.same(before, projections(model))
  end)

  it("is shared where heads are to share it", function()
    local shared = nn.attention { dim = 16, heads = 2, kernel = { features = 12,
      per_head = false } }
    assert.same({ 12, 8 }, { table.unpack(shared:tensors().projection:shape()) })
  end)

  it("is the matrix that its kernel was given, saved and never redrawn", function()
    local W, x = pf.randn(10, 64), pf.randn(1, 7, 128)
    local given = pf.kernel.softmax { projection = W }
    local layer = nn.attention { dim = 128, heads = 2, causal = true, kernel = given }
    assert.bits_equal(W, layer:tensors().projection)
    local per_head = pf.randn(2, 10, 64)
    local own = nn.attention { dim = 128, heads = 2,
      kernel = pf.kernel.softmax { projection = per_head } }
    assert.bits_equal(per_head, own:tensors().projection)
    assert.raises("projection is %[3, 10, 64%], must be .*%(2, features, 64%)", function()
      nn.attention { dim = 128, heads = 2,
        kernel = pf.kernel.softmax { projection = pf.zeros(3, 10, 64) } }
    end)
    local model, opt = new(given)
    train(model, opt, 1, 3)
    for _, bits in ipairs(projections(model)) do assert.are.equal(W:tobytes(), bits) end
    assert(pf.checkpoint.save(folder .. "/given", { model = model, optimizer = opt }))
    local back = assert(pf.checkpoint.load(folder .. "/given"))
    for _, bits in ipairs(projections(back.model)) do assert.are.equal(W:tobytes(), bits) end
    assert.raises("not drawn again", function()
      pf.kernel.softmax { projection = W, redraw = 2 }
    end)
    assert.is_true(layer(x):numel() == x:numel())
  end)
end)
