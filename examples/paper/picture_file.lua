--- picture_file.lua - pictures for the experiments: uint8 arrays of .npy and IDX files, or made-up
-- ones; a part held out; and rows of bytes, each to be told from those before it.
local kit = require "kit"
local pf = require "performer"

local picture_file = {}

picture_file.BEGIN = 256 -- stands before the first byte: one token more than there are bytes
picture_file.VOCAB = 257

--- Sizes, and the numbers as bytes, of a .npy file.
local function npy(path)
  local array = kit.need(pf.npy.load(path))
  local fine, bytes = pcall(array.tobytes, array, "u8")
  if not fine then kit.need(nil, path .. ": holds no uint8 array; save one with numpy.uint8") end
  return array:shape(), bytes
end

local function idx(bytes)
  local rank, sizes = bytes:byte(4), {}
  for d = 1, rank do sizes[d] = string.unpack(">I4", bytes, 1 + 4 * d) end
  return sizes, 5 + 4 * rank
end

--- Pictures { count, height, width, channels, [n] = bytes } of a file.
function picture_file.read(path)
  local bytes = kit.read(path)
  local sizes, first
  if bytes:sub(1, 6) == "\x93NUMPY" then
    sizes, bytes = npy(path)
    first = 1
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
function picture_file.make_up(count)
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

--- Pictures to train on and others, held out: of two files, of one whose last tenth is held out,
-- or made up.
function picture_file.pair(data, other)
  if not data then kit.made_up "pictures" end
  local train = data and picture_file.read(data) or picture_file.make_up(20)
  local valid = other and picture_file.read(other)
  if not valid then
    local first = train.count - math.max(1, train.count // 10)
    valid = table.move(train, first + 1, train.count, 1, { count = train.count - first,
      height = train.height, width = train.width, channels = train.channels })
    train.count = first
  end
  if #valid[1] ~= #train[1] then
    kit.need(nil, "the pictures of the two files have two sizes")
  end
  return train, valid
end

--- Input and target of pictures given as bytes: each byte from those before it.
function picture_file.batch(list)
  local input, target = {}, {}
  for i, bytes in ipairs(list) do
    target[i] = {}
    for first = 1, #bytes, 4096 do
      local part = { bytes:byte(first, math.min(first + 4095, #bytes)) }
      table.move(part, 1, #part, first, target[i])
    end
    input[i] = table.move(target[i], 1, #bytes - 1, 2, { picture_file.BEGIN })
  end
  local i32 = { dtype = "i32" }
  return { input = pf.tensor(input, i32), target = pf.tensor(target, i32) }
end

return picture_file
