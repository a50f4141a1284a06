-- performer/util.lua: what the other files of the binding share.
local core = require "performer.core"

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
      local near = type(key) == "string" and core.nearest(key, allowed)
      util.fail("%s: unknown option '%s'%s", where, tostring(key),
        near and (" (did you mean '%s'?)"):format(near) or "")
    end
  end
  return options
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

--- A namespace that names the nearest entry when one is missing.
function util.namespace(t, name)
  return setmetatable(t, {
    __index = function(_, key)
      if type(key) ~= "string" then return nil end
      local names = {}
      for known in pairs(t) do names[#names + 1] = known end
      table.sort(names)
      local near = core.nearest(key, names)
      if near then util.fail("%s has no '%s' (did you mean '%s'?)", name, key, near) end
      return nil
    end,
  })
end

return util
