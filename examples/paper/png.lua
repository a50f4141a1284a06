--- png.lua - pictures as PNG files, written in plain Lua: grey or colour, 8 bits, not compressed
-- (deflate's stored blocks, RFC 1951), for small pictures. Values are 0 to 255.
local png = {}

local crc_table = {}
for n = 0, 255 do
  local c = n
  for _ = 1, 8 do c = c & 1 == 1 and 0xEDB88320 ~ (c >> 1) or c >> 1 end
  crc_table[n] = c
end

local function crc32(bytes)
  local c = 0xFFFFFFFF
  for i = 1, #bytes do c = crc_table[(c ~ bytes:byte(i)) & 255] ~ (c >> 8) end
  return c ~ 0xFFFFFFFF
end

local function adler32(bytes)
  local a, b = 1, 0
  for i = 1, #bytes do
    a = (a + bytes:byte(i)) % 65521
    b = (b + a) % 65521
  end
  return b << 16 | a
end

local function chunk(kind, bytes)
  return string.pack(">I4", #bytes) .. kind .. bytes .. string.pack(">I4", crc32(kind .. bytes))
end

--- zlib's form of bytes, in stored blocks.
local function stored(bytes)
  local parts = { "\x78\x01" }
  for first = 1, #bytes, 65535 do
    local block = bytes:sub(first, first + 65534)
    local last = first + 65535 > #bytes and 1 or 0
    parts[#parts + 1] = string.pack("<BI2I2", last, #block, ~#block & 0xFFFF) .. block
  end
  return table.concat(parts) .. string.pack(">I4", adler32(bytes))
end

--- The PNG of height x width pixels in row-major order, a byte each, or three (colour = true).
function png.encode(width, height, bytes, colour)
  local step, lines = width * (colour and 3 or 1), {}
  assert(#bytes == step * height, "png: bytes do not fit width and height")
  for y = 0, height - 1 do lines[y + 1] = "\0" .. bytes:sub(y * step + 1, (y + 1) * step) end
  local head = string.pack(">I4I4BBBBB", width, height, 8, colour and 2 or 0, 0, 0, 0)
  return "\x89PNG\r\n\x1a\n" .. chunk("IHDR", head) .. chunk("IDAT", stored(table.concat(lines)))
    .. chunk("IEND", "")
end

--- Tiles of one size side by side, `columns` in a row, with a grey line between: { width, height,
-- bytes } of tiles, each a text of height x width (x 3) bytes.
function png.grid(tiles, width, height, columns, colour)
  local pixel = colour and 3 or 1
  local gap, lines = ("\x80"):rep(2 * pixel), {}
  local whole = columns * width + 2 * (columns - 1)
  for first = 1, #tiles, columns do
    if first > 1 then
      for _ = 1, 2 do lines[#lines + 1] = ("\x80"):rep(whole * pixel) end
    end
    for y = 0, height - 1 do
      local parts = {}
      for i = first, first + columns - 1 do
        local from = y * width * pixel
        parts[#parts + 1] = tiles[i] and tiles[i]:sub(from + 1, from + width * pixel)
          or ("\x80"):rep(width * pixel)
      end
      lines[#lines + 1] = table.concat(parts, gap)
    end
  end
  return whole, #lines, table.concat(lines)
end

return png
