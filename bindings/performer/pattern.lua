-- performer/pattern.lua: patterns, which keys each query sees: rules by name and options, lists
-- of one's own. A pattern is what was said; the tensor that ops take is made of it for a length.
local core = require "performer.core"
local util = require "performer.util"
local tables = require "performer.tables"

local pattern, Pattern = {}, {}
Pattern.__index, Pattern.__name = Pattern, "pattern"

local LARGEST = (1 << 31) - 1 -- that a list may hold
local SLICE = 65536           -- counts that become a table at a time
local ASKED = { "causal", "keys", "limits", "buckets", "head" }

local function is_pattern(value) return getmetatable(value) == Pattern end

local function check_length(length, where)
  local whole = math.type(length) and math.tointeger(length)
  if whole and whole >= 0 and whole <= LARGEST then return whole end
  util.fail("%s: the length must be a whole number from 0 to %d, got %s", where, LARGEST,
    type(length) == "number" and ("%.14g"):format(length) or core.kind(length))
end

-- ---- lists -----------------------------------------------------------------------------

--- A list of positions from 1, sorted, behind those of `to`, as the engine has them.
local function append(to, row, q, where)
  if type(row) ~= "table" then
    util.fail("%s: a list is needed for number %d, got %s", where, q, core.kind(row))
  end
  local sorted = { table.unpack(row) }
  for _, key in ipairs(sorted) do
    if math.type(key) ~= "integer" then
      util.fail("%s: the list of number %d has a %s where a whole number is needed", where, q,
        type(key) == "number" and tostring(key) or core.kind(key))
    end
    if key < -LARGEST or key > LARGEST then -- the engine tells of what it can hold
      util.fail("%s: the list of number %d has %d, but numbers count from 1 to %d", where, q, key,
        LARGEST)
    end
  end
  table.sort(sorted)
  for _, key in ipairs(sorted) do to[#to + 1] = key - 1 end
end

--- What the rule `listed` takes: counts, where each list begins and the last ends, the lists.
local function list_tensor(rows, queries, keys, where)
  local numbers, flat = { queries, keys, 0 }, {}
  for q = 1, queries do
    append(flat, rows(q), q, where)
    numbers[#numbers + 1] = #flat
  end
  table.move(flat, 1, #flat, #numbers + 1, numbers)
  return core.tensor(numbers, { dtype = "i32" })
end

--- Lists, or a function that makes one, as a function of a number and how many there are.
local function rows_of(source, where)
  if type(source) == "function" then return source end
  if type(source) == "table" then return function(q) return source[q] end, #source end
  util.fail("%s: lists are needed, or a function that makes one, got %s", where, core.kind(source))
end

-- ---- pattern objects -------------------------------------------------------------------

--- The pattern as ops take it: (n) i32. `length` and `keys` (as many, if not given) matter only to
--- lists and functions; what was made for the last ones is kept.
function Pattern:tensor(length, keys)
  if not self.make then return self.words end
  length = check_length(length or self.length, self.where)
  keys = keys or length
  if self.made_for ~= length or self.made_keys ~= keys then
    self.words, self.made_for, self.made_keys = self.make(length, keys), length, keys
  end
  return self.words
end

--- The op of that name over the pattern for a length.
local function ask(self, op, length, options)
  options = util.copy(util.check_options(options, ASKED, self.where))
  if length == nil and self.length then
    length, options.keys = self.length, options.keys or self.across
  end
  options.length = check_length(length, self.where)
  if options.head ~= nil then
    if math.type(options.head) ~= "integer" or options.head < 1 then
      util.fail("%s: heads count from 1, got %s", self.where, tostring(options.head))
    end
    options.head = options.head - 1
  end
  return core.op[op](self:tensor(length, options.keys), options)
end

--- Which keys each query sees: (length, keys) i32, 1 where it does.
function Pattern:matrix(length, options)
  return (ask(self, "pattern_matrix", length, options))
end

--- How many keys each query sees: (length) i32.
function Pattern:keys(length, options)
  return (ask(self, "pattern_count", length, options))
end

--- How many pairs of a query and a key there are; and how many tiles of at most 128 x 128 an
--- attention multiplies for them.
function Pattern:count(length, options)
  local keys, tiles = ask(self, "pattern_count", length, options)
  local pairs, queries = 0, keys:size(1)
  for first = 1, queries, SLICE do
    local slice = keys:slice(1, first, math.min(first + SLICE - 1, queries))
    for _, n in ipairs(slice:totable()) do pairs = pairs + n end
  end
  return pairs, tiles:item()
end

-- ---- pictures --------------------------------------------------------------------------

local CELLS, SIZE = 128, 512 -- at most along a side; of the picture

--- What share of the pairs of each cell is seen: a list of rows.
local function shares(matrix, rows, columns, step)
  local cells = {}
  for i = 1, math.ceil(rows / step) do
    local row = {}
    for j = 1, math.ceil(columns / step) do row[j] = 0 end
    cells[i] = row
  end
  for i, line in ipairs(matrix) do
    local row = cells[(i - 1) // step + 1]
    for j, seen in ipairs(line) do
      if seen ~= 0 then row[(j - 1) // step + 1] = row[(j - 1) // step + 1] + 1 end
    end
  end
  for i, row in ipairs(cells) do
    local height = math.min(step, rows - (i - 1) * step)
    for j in ipairs(row) do
      row[j] = row[j] / (height * math.min(step, columns - (j - 1) * step))
    end
  end
  return cells
end

--- Neighbours of one share become one rectangle.
local function draw_row(parts, row, i, cell)
  local j = 1
  while j <= #row do
    local last = j
    while row[last + 1] == row[j] do last = last + 1 end
    if row[j] > 0 then
      parts[#parts + 1] = ('<rect x="%g" y="%g" width="%g" height="%g" fill-opacity="%.2f"/>')
        :format((j - 1) * cell, (i - 1) * cell, (last - j + 1) * cell, cell,
          0.25 + 0.75 * row[j])
    end
    j = last + 1
  end
end

--- A picture, a text: queries downward, keys to the right; the more of a cell's pairs are seen, the
--- darker it is.
function Pattern:svg(length, options)
  if length == nil and not self.length then length = CELLS end
  local seen = self:matrix(length, options)
  local matrix, columns = seen:totable(), seen:size(2)
  length = seen:size(1)
  local longest = math.max(length, columns, 1)
  local step = math.ceil(longest / CELLS)
  local cell = SIZE / math.ceil(longest / step)
  local width, height = math.ceil(columns / step) * cell, math.ceil(length / step) * cell
  local title = tostring(self):gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" })
  local parts = { ('<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" viewBox="-1 -1 '
    .. '%g %g">'):format(width + 2, height + 2, width + 2, height + 2),
    ("<title>%s</title>"):format(title),
    ('<rect width="%g" height="%g" fill="#f4f4f4" stroke="#888"/>'):format(width, height),
    '<g fill="#1f5fa8" shape-rendering="crispEdges">' }
  for i, row in ipairs(shares(matrix, length, columns, step)) do draw_row(parts, row, i, cell) end
  parts[#parts + 1] = "</g></svg>\n"
  return table.concat(parts, "\n")
end

function Pattern:__tostring()
  local options = {}
  for name, value in util.sorted(self.options) do
    options[#options + 1] = ("%s = %s"):format(name, tostring(value))
  end
  return ("pattern %s%s"):format(self.rule,
    #options > 0 and " { " .. table.concat(options, ", ") .. " }" or "")
end

--- words: its tensor, or make(length, keys) that makes it; length, across: queries and keys of one
--- that is for no others.
local function new(rule, options, words, make, length, across)
  return setmetatable({ rule = rule, options = options, words = words, make = make,
    length = length, across = across, where = "pattern." .. rule }, Pattern)
end

-- ---- constructors ----------------------------------------------------------------------

-- Whose an option may be: of another rule, or of an attention alone (the rounds of lsh).
local owners, ruled = {}, {}
for _, rule in ipairs(tables.patterns()) do
  owners[#owners + 1] = rule
  for _, option in ipairs(rule.options) do ruled[option.name] = true end
end
for _, kind in ipairs(tables.kinds()) do
  local own = { name = "pf.attention." .. kind.name, options = {} }
  for _, option in ipairs(kind.options) do
    if not ruled[option.name] then own.options[#own.options + 1] = option end
  end
  owners[#owners + 1] = own
end

for _, rule in ipairs(tables.patterns()) do
  if not rule.lists then
    pattern[rule.name] = function(options)
      if options ~= nil and type(options) ~= "table" then
        util.fail("pattern.%s: options must be a table, got %s", rule.name, core.kind(options))
      end
      options = util.copy(options or {})
      util.check_row(options, rule, owners, "pattern." .. rule.name)
      return new(rule.name, options, core.pattern(rule.name, options))
    end
  end
end

--- Of lists, or of a function of a number and how many there are, by blocks of `block`.
local function listed(name, source, options)
  local where = "pattern." .. name
  local block = options.block or 1
  local rows, count = rows_of(source, where)
  local function make(length, keys)
    local queries = count or (length + block - 1) // block
    local across = (keys + block - 1) // block
    local list = list_tensor(function(q) return rows(q, across) end, queries, across, where)
    return core.pattern("listed", options, list)
  end
  return new(name, options, nil, make, count and count * block)
end

--- Of each query the keys that it sees: a list of lists of positions, or a function (i, length)
--- that makes the list of query i.
function pattern.rows(source, options)
  util.check_options(options, {}, "pattern.rows")
  return listed("rows", source, {})
end

--- Of each block of queries the blocks of keys that it sees, likewise; options: block (64).
function pattern.tiles(source, options)
  options = util.copy(util.check_options(options, { "block" }, "pattern.tiles"))
  options.block = options.block or 64
  if math.type(options.block) ~= "integer" or options.block < 1 then
    util.fail("pattern.tiles: block must be a whole number of at least 1, got %s",
      tostring(options.block))
  end
  return listed("tiles", source, options)
end

--- Of a matrix (queries, keys) of 1 and 0, a tensor or lists.
function pattern.matrix(matrix, options)
  local where = "pattern.matrix"
  util.check_options(options, {}, where)
  if core.kind(matrix) == "tensor" then
    if matrix:rank() ~= 2 then
      util.fail("%s: a matrix (queries, keys) is needed, got %s", where,
        tostring(matrix:shape()))
    end
    matrix = matrix:totable()
  end
  local rows, count = rows_of(matrix, where)
  if not count then util.fail("%s: a matrix is needed, got function", where) end
  for q = 1, count do
    if type(rows(q)) ~= "table" then
      util.fail("%s: row %d must be a list of numbers, got %s", where, q, core.kind(rows(q)))
    end
  end
  local keys = count > 0 and #rows(1) or 0
  local function positions(q)
    local row, list = rows(q), {}
    if #row ~= keys then
      util.fail("%s: row %d has %d numbers, the first has %d", where, q, #row, keys)
    end
    for j, seen in ipairs(row) do
      if seen ~= 0 then list[#list + 1] = j end
    end
    return list
  end
  local list = list_tensor(positions, count, keys, where)
  return new("matrix", { queries = count, keys = keys }, core.pattern("listed", {}, list), nil,
    count, keys)
end

-- ---- attention -------------------------------------------------------------------------

local allowed = { "pattern", "scale", "dropout", "draw", "causal", "buckets" }
for _, kind in ipairs(tables.kinds()) do
  if kind.name == "exact" then table.move(kind.takes, 1, #kind.takes, #allowed + 1, allowed) end
end

--- Softmax attention over the pairs of a pattern: q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk,
--- dv), H a multiple of Hk. Who sees whom besides (causal, mask ...) holds too.
local function attention(q, k, v, options)
  local where = "attention.listed"
  options = util.copy(util.check_options(options, allowed, where))
  util.check_rows(where, { q = q, k = k, v = v })
  if q == nil or k == nil or v == nil then util.fail("%s: q, k and v are needed", where) end
  if not is_pattern(options.pattern) then
    util.fail("%s: pattern must be one that pf.pattern made, got %s", where,
      core.kind(options.pattern))
  end
  options.pattern = options.pattern:tensor(q:size(3), k:size(3))
  return core.op.listed_attention(q, k, v, options)
end

return { pattern = util.namespace(pattern, "pf.pattern"), is_pattern = is_pattern,
         attention = attention }
