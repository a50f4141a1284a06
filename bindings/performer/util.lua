-- performer/util.lua: what the other files of the binding share.
local core = require "performer.core"

local words = require "performer.words"
local choices = require "performer.choices"

local util = {}

util.raise = core.raise

--- A formatted error with the position of the user's line.
function util.fail(format, ...)
  return core.raise(format:format(...))
end

--- Refuses keys of `options` that are not in the list `allowed`.
function util.check_options(options, allowed, where)
  if options == nil then return {} end
  if type(options) ~= "table" then
    util.fail("%s: options must be a table, got %s", where, core.kind(options))
  end
  local known = {}
  for _, name in ipairs(allowed) do known[name] = true end
  for key in pairs(options) do
    if not known[key] then
      util.fail("%s: unknown option '%s'%s", where, tostring(key), words.hint(key, allowed))
    end
  end
  return options
end

--- Refuses options of these names that are given and no numbers.
function util.check_numbers(options, names, where)
  for _, name in ipairs(names) do
    local value = options[name]
    if value ~= nil and type(value) ~= "number" then
      util.fail("%s: %s must be a number, got %s", where, name, core.kind(value))
    end
  end
end

--- Refuses what is no tensor (B, H, L, d); `rows` is a table of them by name.
function util.check_rows(where, rows)
  for name, t in util.sorted(rows) do
    if core.kind(t) ~= "tensor" or t:rank() ~= 4 then
      util.fail("%s: %s must be a tensor (B, H, L, d), got %s", where, name,
        core.kind(t) == "tensor" and tostring(t:shape()) or core.kind(t))
    end
  end
end

--- Refuses options of a kind of attention that stand beside its name, where a layer's row takes
--- them within it. What is nearly an option of the layer's own is rather meant for that.
function util.check_attention(options, row, kinds)
  local takes, names = {}, {}
  for i, option in ipairs(row.options) do names[i], takes[option.name] = option.name, true end
  for _, key in ipairs(takes.attention_options and util.sorted_keys(options) or {}) do
    local owners, own = {}, false
    for _, kind in ipairs(takes[key] and {} or kinds) do
      for _, option in ipairs(kind.options) do
        if option.name == key then
          own = own or kind.name == options.attention
          table.insert(owners, kind.name == options.attention and 1 or #owners + 1, kind.name)
        end
      end
    end
    if owners[1] and (own or not core.nearest(key, names)) then
      util.fail("nn.%s: '%s' is an option of attention, and stands with its name: attention = "
        .. "{ name = \"%s\", %s = %s }", row.type, key, owners[1], key, tostring(options[key]))
    end
  end
end

local function option_names(row)
  local names = {}
  for i, option in ipairs(row.options) do names[i] = option.name end
  return names
end

--- Refuses options of a row (of a layer, an optimizer, a schedule) that other libraries call so;
--- what else it has not the engine tells.
function util.check_words(options, row)
  local names = option_names(row)
  local has = {}
  for _, name in ipairs(names) do has[name] = true end
  for _, key in ipairs(util.sorted_keys(options)) do
    local known = type(key) == "string" and not has[key]
      and (words.meant(key, names) or words.notes[key])
    if known then
      util.fail("%s: unknown option '%s'%s", row.type or row.name, key, words.hint(key, names))
    end
  end
end

--- The name of an option of `row` (of a kind, a rule) that is meant by `key`: as it is called
--- elsewhere, or nearly written; nil: none.
function util.meant(key, row)
  local names = option_names(row)
  local meant = words.meant(key, names)
  if meant then return meant, true end
  return core.nearest(key, names)
end

--- Refuses an option that `row` has not: with the name that is meant, or whose it is of `rows`.
function util.check_row(options, row, rows, where)
  local has = {}
  for _, option in ipairs(row.options) do has[option.name] = true end
  for _, key in ipairs(util.sorted_keys(options)) do
    if type(key) ~= "string" or not has[key] then
      local near, exact = util.meant(tostring(key), row)
      local owners = {}
      for _, other in ipairs(rows) do
        for _, option in ipairs(other.options) do
          if option.name == key then owners[#owners + 1] = other.name end
        end
      end
      local of = #owners > 0 and ("; it is of %s"):format(table.concat(owners, ", ")) or ""
      if near or of == "" then of = of .. choices.near(key, option_names(row)) end
      util.fail("%s: unknown option '%s'%s", where, tostring(key),
        exact and ("; it is '%s'"):format(near) or of)
    end
  end
end

--- Keys of a table in a stable order: numbers first, then texts, then the rest.
function util.sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  local rank = { number = 1, string = 2 }
  table.sort(keys, function(a, b)
    local x, y = rank[type(a)] or 3, rank[type(b)] or 3
    if x ~= y then return x < y end
    if x == 3 then return tostring(a) < tostring(b) end
    return a < b
  end)
  return keys
end

--- pairs() in the order of sorted_keys.
function util.sorted(t)
  if type(t) ~= "table" then util.fail("sorted: a table is needed, got %s", core.kind(t)) end
  local keys, i = util.sorted_keys(t), 0
  return function()
    i = i + 1
    if keys[i] ~= nil then return keys[i], t[keys[i]] end
  end
end

function util.copy(t)
  local copy = {}
  for key, value in pairs(t) do copy[key] = value end
  return copy
end

--- What a field of a shown table says: lists and tables that are no few words are counted.
local function field_text(value)
  local kind = core.kind(value)
  if kind == "tensor" then return ("%s %s"):format(value:shape(), value:dtype()) end
  if kind == "string" then return ("%q"):format(value) end
  if kind ~= "table" or util.has_tostring(value) then
    return (tostring(value):gsub("\n.*", " ..."))
  end
  local n = 0
  for _ in pairs(value) do n = n + 1 end
  return n == 0 and "{}" or ("{%d %s}"):format(n, n == 1 and "entry" or "entries")
end

function util.has_tostring(value)
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__tostring ~= nil
end

--- t, which from now on prints as "name { field = value, ... }".
function util.shown(t, name)
  if type(t) ~= "table" then return t end
  return setmetatable(t, { __name = name, __tostring = function(self)
    local parts = {}
    for key, value in util.sorted(self) do
      parts[#parts + 1] = ("%s = %s"):format(tostring(key), field_text(value))
    end
    return ("%s { %s }"):format(name, table.concat(parts, ", "))
  end })
end

--- A function whose first result prints as `name`.
function util.showing(f, name)
  return function(...)
    local results = table.pack(f(...))
    util.shown(results[1], name)
    return table.unpack(results, 1, results.n)
  end
end

--- A namespace that names the nearest entry when one is missing, and prints as what it has. other:
--- what is meant by words of other libraries (words.lua).
function util.namespace(t, name, other)
  local function names_of()
    local names = {}
    for known in pairs(t) do names[#names + 1] = known end
    table.sort(names)
    return names
  end
  return setmetatable(t, {
    __index = function(_, key)
      if type(key) ~= "string" then return nil end
      if other and other[key] then
        util.fail("%s has no '%s'; %s", name, key, other[key])
      end
      local near = core.nearest(key, names_of())
      if near then util.fail("%s has no '%s' (did you mean '%s'?)", name, key, near) end
      return nil
    end,
    __tostring = function() return ("%s: %s"):format(name, table.concat(names_of(), ", ")) end,
  })
end

return util
