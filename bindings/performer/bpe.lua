-- performer/bpe.lua: the tokenizer of llama2.c, a byte-pair vocabulary as SentencePiece trains it,
-- from its .bin file: int32 the longest piece, then of each token float32 score, int32 bytes, and
-- the piece. Of all neighbours that are a piece together those of the highest score are joined
-- first, of equal ones the leftmost; characters that are no piece become bytes.
local core = require "performer.core"

local bpe = {}

local Bpe = {}
Bpe.__index = Bpe
Bpe.__name = "tokenizer"
Bpe.__tostring = function(t) return ("llama2c tokenizer, %d tokens"):format(t:size()) end

-- Ids that every such file begins with: unknown, begin, end, and then the 256 bytes.
local UNKNOWN, BEGIN, END, BYTES = 0, 1, 2, 3

-- ---- a heap of neighbours, the best at its top ----

local function before(a, b)
  return a.score > b.score or a.score == b.score and a.at < b.at
end

local function push(heap, entry)
  local i = #heap + 1
  while i > 1 and before(entry, heap[i // 2]) do
    heap[i], i = heap[i // 2], i // 2
  end
  heap[i] = entry
end

local function pop(heap)
  local top, last = heap[1], table.remove(heap)
  local n, i = #heap, 1
  while 2 * i <= n do
    local child = 2 * i
    if child < n and before(heap[child + 1], heap[child]) then child = child + 1 end
    if not before(heap[child], last) then break end
    heap[i], i = heap[child], child
  end
  if n > 0 then heap[i] = last end
  return top
end

-- ---- encoding ----

--- The ids of the single characters of a text, a space before it.
local function characters(self, text)
  local ids, at = {}, 1
  text = " " .. text
  while at <= #text do
    local n = utf8.len(text, at, at) and utf8.offset(text, 2, at) - at or 1
    local piece = text:sub(at, at + n - 1)
    if self.ids[piece] then
      ids[#ids + 1] = self.ids[piece]
    else
      for i = 1, n do ids[#ids + 1] = BYTES + piece:byte(i) end
    end
    at = at + n
  end
  return ids
end

--- Puts the token at place `at` and the one behind it on the heap, if they are a piece together.
local function consider(self, heap, ids, after, at)
  local other = after[at]
  if not ids[at] or not ids[other] then return end
  local joined = self.ids[self.pieces[ids[at]] .. self.pieces[ids[other]]]
  if not joined then return end
  push(heap, { score = self.scores[joined], at = at, left = ids[at], right = ids[other],
               joined = joined })
end

--- Joins neighbours of ids until none are a piece together.
local function join(self, ids)
  local heap, after, behind = {}, {}, {}
  for i = 1, #ids do after[i], behind[i] = i + 1, i - 1 end
  local n = #ids
  for i = 1, n do consider(self, heap, ids, after, i) end
  while #heap > 0 do
    local best = pop(heap)
    local at, other = best.at, after[best.at]
    if ids[at] == best.left and ids[other] == best.right then
      ids[at], ids[other] = best.joined, nil
      after[at] = after[other]
      if after[at] <= n then behind[after[at]] = at end
      consider(self, heap, ids, after, at)
      consider(self, heap, ids, after, behind[at])
    end
  end
  local kept = {}
  for i = 1, n do kept[#kept + 1] = ids[i] end
  return kept
end

--- The ids of a text, an i32 tensor (L), without a begin.
function Bpe:encode(text)
  local ids = text == "" and {} or join(self, characters(self, text))
  if #ids == 0 then return core.zeros(0, { dtype = "i32" }) end
  return core.tensor(ids, { dtype = "i32" })
end

--- The text of ids, an i32 tensor or a list. Begin and end are nothing, and so is a space behind
--- begin.
function Bpe:decode(ids)
  if core.kind(ids) == "tensor" then ids = ids:reshape(-1):totable() end
  local parts, last = {}, nil
  for i, id in ipairs(ids) do
    local piece = id ~= BEGIN and id ~= END and self.pieces[id] or ""
    local byte = piece:match "^<0x(%x%x)>$"
    if byte then piece = string.char(tonumber(byte, 16)) end
    parts[i] = last == BEGIN and piece:gsub("^ ", "") or piece
    last = id
  end
  return table.concat(parts)
end

function Bpe:size() return self.n end

--- The id of "begin", "end" or "unknown"; nil where there is none.
function Bpe.special(_, name)
  return ({ unknown = UNKNOWN, begin = BEGIN, ["end"] = END })[name]
end

-- ---- reading ----

--- The tokens of a file's bytes, or nil where they are none.
local function parse(data)
  local self = { pieces = {}, scores = {}, ids = {}, n = 0 }
  local at = 5
  while at <= #data do
    if at + 7 > #data then return nil end
    local score, length, from = string.unpack("<fi4", data, at)
    if length < 0 or from + length - 1 > #data or score ~= score then return nil end
    local piece = data:sub(from, from + length - 1)
    self.pieces[self.n], self.scores[self.n] = piece, score
    if self.ids[piece] == nil then self.ids[piece] = self.n end
    self.n, at = self.n + 1, from + length
  end
  return self.n > BYTES + 256 and setmetatable(self, Bpe) or nil
end

--- A tokenizer from llama2.c's tokenizer.bin; nil, message, code.
function bpe.open(path)
  core.check_text(path, "tokenizer.llama2c", "the path")
  local data, message, code = core.file_read(path)
  if not data then return nil, message, code end
  local self = parse(data)
  if self then return self end
  return nil, ("%s: is no vocabulary of llama2.c (score, length and bytes of each token)"):format(
    path), "PF_EFORMAT"
end

return bpe
