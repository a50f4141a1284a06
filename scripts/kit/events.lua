--- events.lua - event files as TensorBoard reads them: records of TFRecord, each an Event message
-- (protocol buffers) with scalars. Sources: tensorflow/core/lib/io/record_writer.h,
-- core/util/event.proto, core/framework/summary.proto; CRC-32C is that of RFC 3720.
local events = {}

-- ---- the checksum ----

local CASTAGNOLI = 0x82f63b78 -- its polynomial, reflected
local TABLE = {}
for byte = 0, 255 do
  local c = byte
  for _ = 1, 8 do c = c & 1 == 1 and c >> 1 ~ CASTAGNOLI or c >> 1 end
  TABLE[byte] = c
end

--- CRC-32C of a text.
function events.crc32c(text)
  local c = 0xffffffff
  for i = 1, #text do c = TABLE[(c ~ text:byte(i)) & 0xff] ~ c >> 8 end
  return c ~ 0xffffffff
end

--- As records have it, so that a checksum of bytes that hold checksums is none of those.
function events.masked(text)
  local c = events.crc32c(text)
  return ((c >> 15 | c << 17 & 0xffffffff) + 0xa282ead8) & 0xffffffff
end

-- ---- protocol buffers ----

local VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

local function varint(n)
  local bytes = {}
  while n > 0x7f do
    bytes[#bytes + 1] = string.char(n & 0x7f | 0x80)
    n = n >> 7
  end
  return table.concat(bytes) .. string.char(n)
end

local function key(field, kind) return varint(field << 3 | kind) end
local function bytes(field, text) return key(field, BYTES) .. varint(#text) .. text end
local function double(field, x) return key(field, FIXED64) .. string.pack("<d", x) end
local function float(field, x) return key(field, FIXED32) .. string.pack("<f", x) end

-- ---- records ----

--- A record of a message's bytes.
function events.record(data)
  local length = string.pack("<I8", #data)
  return length .. string.pack("<I4", events.masked(length)) .. data
    .. string.pack("<I4", events.masked(data))
end

-- Event: wall_time = 1, step = 2, file_version = 3, summary = 5. Summary: value = 1, of which
-- tag = 1, simple_value = 2.

--- What a file begins with. time: seconds since 1970.
function events.head(time) return events.record(double(1, time) .. bytes(3, "brain.Event:2")) end

--- The record of a step's scalars, a list of { tag, value }.
function events.scalars(time, step, list)
  local values = {}
  for i, scalar in ipairs(list) do
    values[i] = bytes(1, bytes(1, scalar[1]) .. float(2, scalar[2]))
  end
  return events.record(double(1, time) .. key(2, VARINT) .. varint(step)
    .. bytes(5, table.concat(values)))
end

--- The time that a file of ours begins with; nil where `path` is none.
function events.began(path)
  local file = io.open(path, "rb")
  local text = file and file:read(64)
  if file then file:close() end
  if not text or #text < 21 then return nil end
  local time = string.unpack("<d", text, 14) -- behind 12 bytes of the record's, and the key
  return text:sub(1, #events.head(time)) == events.head(time) and time or nil
end

return events
