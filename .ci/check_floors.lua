-- check_floors.lua - reads every #include of engine/, bindings/ and the C examples, and
-- prints each that the house does not allow: upward, sideways between io and the ops, out of
-- bindings past the public header, or a library that has one home only. Run from the root.
local lfs = require "lfs"

-- What a folder may include beside itself, as the chain of floors below it.
local BELOW = {
  ["engine/include"] = {},
  ["engine/runtime"] = { "engine/include" },
  ["engine/tensor"] = { "engine/runtime" },
  ["engine/ops/kern"] = { "engine/runtime" }, -- pointers and lengths only, no tensor
  ["engine/ops"] = { "engine/ops/kern", "engine/tensor" },
  ["engine/comm"] = { "engine/ops" }, -- knows no tape
  ["engine/autograd"] = { "engine/comm" },
  ["engine/state"] = { "engine/autograd" },
  ["engine/kernel"] = { "engine/state" },
  ["engine/attention"] = { "engine/kernel" },
  ["engine/nn"] = { "engine/attention" },
  ["engine/train"] = { "engine/nn" },
  ["engine/io"] = { "engine/tensor" }, -- knows no op; meets the others in api
  ["engine/plugins"] = { "engine/include" },
  ["engine/api"] = { "engine/train", "engine/io" },
  ["bindings"] = { "engine/include" },
  ["examples"] = { "engine/include" },
}

-- System headers that some places may use (a pattern of paths, or a list of them), or none.
local HOMES = {
  ["cblas.h"] = "^engine/ops/kern/",
  ["omp.h"] = "^engine/runtime/", ["mpi.h"] = "^engine/plugins/",
  ["zlib.h"] = "^engine/io/",
  ["xxhash.h"] = { "^engine/io/", "^engine/autograd/recompute%.c$" },
  ["lua.h"] = "^bindings/", ["lauxlib.h"] = "^bindings/", ["lualib.h"] = "^bindings/",
  ["histedit.h"] = "^bindings/edit%.c$", -- the program's alone
  ["assert.h"] = "^$", ["setjmp.h"] = "^$",
}

local function walk(folder, found)
  for name in lfs.dir(folder) do
    local path = folder .. "/" .. name
    local mode = name:sub(1, 1) ~= "." and lfs.attributes(path, "mode")
    if mode == "directory" then
      walk(path, found)
    elseif mode == "file" and name:match "%.[ch]$" or mode == "file" and name:match "%.def$" then
      found[#found + 1] = path
    end
  end
  return found
end

-- The floor of a path: the longest folder in BELOW that begins it.
local function floor_of(path)
  local folder = path
  repeat
    folder = folder:match "^(.*)/[^/]*$"
  until folder == nil or BELOW[folder]
  return folder
end

local function allowed(from, to)
  if from == to then return true end
  for _, below in ipairs(BELOW[from]) do
    if allowed(below, to) then return true end
  end
  return false
end

local function at_home(path, home)
  if type(home) == "string" then return path:match(home) ~= nil end
  for _, pattern in ipairs(home) do
    if path:match(pattern) then return true end
  end
  return false
end

local passed, failed = 0, 0

local function report(path, line, text, ...)
  failed = failed + 1
  print(("%s:%d: " .. text):format(path, line, ...))
end

-- An include by name: it lies beside, or its name is known once in the house.
local function check_quoted(path, line, target, homes)
  local from = floor_of(path)
  if target:find("/", 1, true) then
    return report(path, line, "include '%s' by its name alone; the build knows the floors", target)
  end
  local to = homes[target]
  if not to then return report(path, line, "no header '%s' in the house", target) end
  if to.count > 1 and not to[from] then
    return report(path, line, "'%s' is the name of several headers", target)
  end
  local floor = to[from] and from or to.floor
  if not allowed(from, floor) then
    return report(path, line, "%s may not include '%s' of %s", from, target, floor)
  end
  passed = passed + 1
end

local function check_system(path, line, target)
  local home = HOMES[target]
  if home and not at_home(path, home) then
    return report(path, line, "<%s> is not for this file", target)
  end
  passed = passed + 1
end

local function main()
  local files = walk("engine", {})
  walk("bindings", files)
  walk("examples", files)
  table.sort(files)
  local homes = {}
  for _, path in ipairs(files) do
    local name, floor = path:match "[^/]*$", floor_of(path)
    if not floor then
      report(path, 1, "stands on no floor (DESIGN: the house)")
    elseif not name:match "%.c$" then
      local home = homes[name] or { count = 0, floor = floor }
      home.count, home[floor] = home.count + 1, true
      homes[name] = home
    end
  end
  for _, path in ipairs(files) do
    local line = 0
    for text in io.lines(path) do
      line = line + 1
      local mark, target = text:match '^%s*#%s*include%s*([<"])([^>"]*)[>"]'
      if mark == '"' and floor_of(path) then check_quoted(path, line, target, homes) end
      if mark == "<" then check_system(path, line, target) end
    end
  end
  print(("%d passed, %d failed"):format(passed, failed))
  os.exit(failed == 0)
end

main()
