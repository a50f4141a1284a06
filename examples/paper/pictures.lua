--- pictures.lua - pictures as sequences of bytes: 64 x 64 x 3 is a row of 12,288 tokens, 28 x 28
-- one of 784. Bits a dimension with FAVOR+ (softmax), ReLU and SMREG, and samples as PNG.
--
--   performer examples/paper/pictures.lua --data train.npy --valid valid.npy
--   performer examples/paper/pictures.lua --data train-images-idx3-ubyte --valid t10k-...
--
-- Data: uint8 arrays (N, H, W, C) or (N, H, W) as .npy (NumPy: np.save), or IDX files, as MNIST and
-- Fashion-MNIST have them (Debian: dataset-fashion-mnist).
local kit = require "kit"
local pf = require "performer"
local picture_file = require "picture_file"
local png = require "png"
local svg = require "kit.svg"

local SIZES = {
  doc = { dim = "model width", layers = "blocks", heads = "attention heads", batch = "rows a step",
          features = "random projections", steps = "training steps", lr = "peak learning rate",
          limit = "pictures that bits are measured on", samples = "pictures that are drawn",
          points = "measurements of a curve" },
  smoke = { dim = 16, layers = 1, heads = 2, features = 16, batch = 2, steps = 4, lr = 4e-3,
            limit = 2, samples = 1, points = 2 },
  quick = { dim = 64, layers = 2, heads = 4, features = 64, batch = 1, steps = 50, lr = 4e-3,
            limit = 2, samples = 2, points = 5 },
  full = { dim = 128, layers = 6, heads = 4, features = 128, batch = 1, steps = 1500, lr = 3e-3,
           limit = 23, samples = 8, points = 15 },
}

--- Bits a dimension that the paper has after 100,000 steps on ImageNet64 (appendix D.2).
local CASES = {
  { name = "softmax", kernel = "softmax", paper = "3.69" },
  { name = "ReLU", kernel = "relu", paper = "3.67" },
  { name = "SMREG", kernel = "softmax_reg", paper = "3.67" },
}

local BEGIN = picture_file.BEGIN

-- ---- rows ----

--- Bits a dimension on the first `limit` pictures.
local function bits(model, pictures, limit)
  local sum, n = 0, math.min(limit, pictures.count)
  for i = 1, n do
    local batch = picture_file.batch { pictures[i] }
    sum = sum + model(batch):cross_entropy(batch.target):item()
    collectgarbage()
  end
  return sum / n / math.log(2)
end

--- What counting gets: each byte from the one of its channel in the pixel before it.
local function counted_bits(train, valid, limit)
  local c, counts, totals = train.channels, {}, {}
  local function each(pictures, count, f)
    for i = 1, count do
      local bytes = pictures[i]
      for at = 1, #bytes do f(at > c and bytes:byte(at - c) or BEGIN, bytes:byte(at)) end
    end
  end
  each(train, train.count, function(before, value)
    local key = before << 8 | value
    counts[key], totals[before] = (counts[key] or 0) + 1, (totals[before] or 0) + 1
  end)
  local cost, n = 0, 0
  each(valid, math.min(limit, valid.count), function(before, value)
    local p = ((counts[before << 8 | value] or 0) + 0.01) / ((totals[before] or 0) + 2.56)
    cost, n = cost - math.log(p, 2), n + 1
  end)
  return cost / n
end

--- The lower half of pictures, as the model goes on from the upper one: a row of what it saw, and a
-- row of what it made.
local function draw(o, model, pictures)
  local tiles, made, size = {}, {}, #pictures[1]
  for i = 1, math.min(o.samples, pictures.count) do
    local given = { BEGIN, pictures[i]:byte(1, 1) }
    for at = 2, size // 2 do given[at + 1] = pictures[i]:byte(at) end
    local stream = model:stream()
    stream:feed(given)
    local allowed = {}
    for id = 0, 255 do allowed[id + 1] = id end
    stream:allow(allowed)
    local id, bytes = nil, { pictures[i]:sub(1, size // 2) }
    for at = size // 2 + 1, size do
      local sampling = { temperature = 0.9, seed = o.seed }
      id = at == size // 2 + 1 and stream:sample(sampling) or stream:next(id, sampling)
      bytes[#bytes + 1] = string.char(id)
    end
    tiles[i], made[i] = pictures[i], table.concat(bytes)
    stream:close()
  end
  table.move(made, 1, #made, #tiles + 1, tiles)
  local colour = pictures.channels == 3
  local w, h, bytes = png.grid(tiles, pictures.width, pictures.height, #made, colour)
  kit.file("_samples.png", png.encode(w, h, bytes, colour))
end

-- ---- all of it ----

local function run(o, case, train, valid)
  pf.seed(o.seed)
  math.randomseed(o.seed)
  local kernel = { name = case.kernel }
  if case.kernel ~= "relu" then kernel.features = o.features end
  local model = pf.nn.performer { vocab = picture_file.VOCAB, dim = o.dim, layers = o.layers,
    heads = o.heads, causal = true, length = #train[1], kernel = kernel }
  local curve = {}
  local _, seconds, broken = kit.train { model = model, label = case.name, steps = o.steps,
    lr = o.lr, points = o.points, loss = kit.language_loss,
    batch = function()
      local list = {}
      for i = 1, o.batch do list[i] = train[math.random(train.count)] end
      return picture_file.batch(list)
    end,
    each = function(step) curve[#curve + 1] = { step, bits(model, valid, o.limit) } end }
  return { model = model, curve = curve, rate = o.steps * o.batch * #train[1] / seconds,
           bits = broken and math.huge or curve[#curve][2], broken = broken }
end

kit.main(function()
  local o = kit.options { name = "pictures", sizes = SIZES, takes = "about two hours on two cores",
    about = "Pictures as sequences: bits a dimension, and samples.",
    data = { { "data", ".npy (uint8) or IDX" }, { "valid", "the same, to validate on" } } }
  local train, valid = picture_file.pair(o.data, o.valid)
  kit.print("%d pictures of %d x %d x %d, rows of %d; %d steps of %d rows", train.count,
            train.height, train.width, train.channels, #train[1], o.steps, o.batch)
  local rows, series, best = {}, {}, nil
  for i, case in ipairs(CASES) do
    local result = run(o, case, train, valid)
    if not best or result.bits < best.bits then best = result best.name = case.name end
    rows[i] = { case.name, result.broken and "broke down" or ("%.3f"):format(result.bits),
                case.paper, ("%.0f"):format(result.rate) }
    series[i] = { name = case.name, points = result.curve }
  end
  local counted = counted_bits(train, valid, o.limit)
  rows[#rows + 1] = { "counting, by the pixel before", ("%.3f"):format(counted), "-", "-" }
  kit.table({ "attention", "bits a dimension", "paper, ImageNet64, 100,000 steps", "bytes/s" },
            rows)
  kit.file(".svg", svg.chart { title = "Pictures as sequences", x = "step", y = "bits a dimension",
                               series = series })
  draw(o, best.model, valid)
  kit.verdict(best.bits < counted, "%s has %.3f bits a dimension, counting by the pixel before "
    .. "%.3f", best.name, best.bits, counted)
end)
