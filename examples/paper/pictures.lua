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

local BEGIN = 256 -- one token more than there are bytes

-- ---- files ----

--- The header of a .npy file: sizes, and where the numbers begin.
local function npy(path, bytes)
  local width = bytes:byte(7) == 1 and 2 or 4
  local size, at = string.unpack(width == 2 and "<I2" or "<I4", bytes, 9)
  local head = bytes:sub(at, at + size - 1)
  if not head:find("'|u1'", 1, true) or not head:find("'fortran_order': False", 1, true) then
    kit.need(nil, path .. ": holds no uint8 array in row-major order; save one with numpy.uint8")
  end
  local sizes = {}
  for n in head:match("'shape': %(([%d, ]*)%)"):gmatch "%d+" do sizes[#sizes + 1] = tonumber(n) end
  return sizes, at + size
end

local function idx(bytes)
  local rank, sizes = bytes:byte(4), {}
  for d = 1, rank do sizes[d] = string.unpack(">I4", bytes, 1 + 4 * d) end
  return sizes, 5 + 4 * rank
end

--- Pictures { count, height, width, channels, [n] = bytes } of a file.
local function read(path)
  local bytes = kit.read(path)
  local sizes, first
  if bytes:sub(1, 6) == "\x93NUMPY" then
    sizes, first = npy(path, bytes)
  elseif bytes:sub(1, 3) == "\0\0\x08" then
    sizes, first = idx(bytes)
  else
    kit.need(nil, path .. ": is neither .npy nor IDX of bytes")
  end
  local n, h, w, c = sizes[1], sizes[2], sizes[3], sizes[4] or 1
  if #sizes < 3 or #sizes > 4 or #bytes - first + 1 < n * h * w * c then
    kit.need(nil, path .. ": holds no pictures (N, H, W) or (N, H, W, C), or is cut short")
  end
  local pictures, size = { count = n, height = h, width = w, channels = c }, h * w * c
  for i = 1, n do pictures[i] = bytes:sub(first + (i - 1) * size, first + i * size - 1) end
  return pictures
end

--- Made-up pictures: slopes of grey.
local function make_up(count)
  local pictures = { count = count, height = 8, width = 8, channels = 1 }
  for n = 1, count do
    local bytes, a, b = {}, math.random(0, 15), math.random(0, 15)
    for y = 0, 7 do
      for x = 0, 7 do bytes[#bytes + 1] = string.char(a * x + b * y) end
    end
    pictures[n] = table.concat(bytes)
  end
  return pictures
end

-- ---- rows ----

--- Input and target of pictures given as bytes: each byte from those before it.
local function batch_of(list)
  local input, target = {}, {}
  for i, bytes in ipairs(list) do
    target[i] = {}
    for first = 1, #bytes, 4096 do
      local part = { bytes:byte(first, math.min(first + 4095, #bytes)) }
      table.move(part, 1, #part, first, target[i])
    end
    input[i] = table.move(target[i], 1, #bytes - 1, 2, { BEGIN })
  end
  local i32 = { dtype = "i32" }
  return { input = pf.tensor(input, i32), target = pf.tensor(target, i32) }
end

--- Bits a dimension on the first `limit` pictures.
local function bits(model, pictures, limit)
  local sum, n = 0, math.min(limit, pictures.count)
  for i = 1, n do
    local batch = batch_of { pictures[i] }
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
  local model = pf.nn.performer { vocab = BEGIN + 1, dim = o.dim, layers = o.layers,
    heads = o.heads, causal = true, length = #train[1], kernel = kernel }
  local curve = {}
  local _, seconds, broken = kit.train { model = model, label = case.name, steps = o.steps,
    lr = o.lr, points = o.points, loss = kit.language_loss,
    batch = function()
      local list = {}
      for i = 1, o.batch do list[i] = train[math.random(train.count)] end
      return batch_of(list)
    end,
    each = function(step) curve[#curve + 1] = { step, bits(model, valid, o.limit) } end }
  return { model = model, curve = curve, rate = o.steps * o.batch * #train[1] / seconds,
           bits = broken and math.huge or curve[#curve][2], broken = broken }
end

kit.main(function()
  local o = kit.options { name = "pictures", sizes = SIZES, takes = "about two hours on two cores",
    about = "Pictures as sequences: bits a dimension, and samples.",
    data = { { "data", ".npy (uint8) or IDX" }, { "valid", "the same, to validate on" } } }
  if not o.data then kit.made_up "pictures" end
  local train = o.data and read(o.data) or make_up(20)
  local valid = o.valid and read(o.valid) or train
  if not o.valid then -- the last tenth is held out
    local first = train.count - math.max(1, train.count // 10)
    valid = table.move(train, first + 1, train.count, 1, { count = train.count - first,
      height = train.height, width = train.width, channels = train.channels })
    train.count = first
  end
  if #valid[1] ~= #train[1] then
    kit.need(nil, "pictures: --data and --valid have pictures of two sizes")
  end
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
