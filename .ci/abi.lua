-- abi.lua - what programs that were compiled before rely on, read from the public headers: every
-- function's prototype, every struct's fields and every constant, a line each.
--
--   lua5.4 .ci/abi.lua           writes spec/golden/abi.txt, for a PF_ABI_VERSION that begins
--   lua5.4 .ci/abi.lua --check   exit code 1 when something of the same number has gone or changed
local root = arg[0]:match "^(.*)%.ci/[^/]*$" or "./"
if root == "" then root = "./" end
local GOLDEN = root .. "spec/golden/abi.txt"

--- All public headers, performer.h first: it has the number.
local function headers()
  local list <close> = assert(io.popen(("cd '%s.' && ls engine/include/*.h"):format(root)))
  local all = { "engine/include/performer.h", "bindings/performer_lua.h" }
  for path in list:lines() do
    if path ~= all[1] then all[#all + 1] = path end
  end
  assert(#all > 8, "where are the headers?")
  return all
end

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text
end

--- The header without comments, and with the fields that PF_PASS_FIELDS makes.
local function plain(path)
  local text = read(path):gsub("/%*.-%*/", " "):gsub("\\\n", " ")
  local fields = text:match "#define PF_PASS_FIELDS%b()(.-)\n"
  text = text:gsub("PF_PASS_FIELDS%b()%s*}", (fields or "") .. "}")
  local statuses = text:match "#define PF_STATUS_LIST%b()([^\n]*)\n"
  text = text:gsub("PF_STATUS_LIST%b()%s*P", ((statuses or ""):gsub(
    "X%(([%w_]+), ([-%d]+), [^)]*%)", "%1 = %2,")) .. "P")
  text = text:gsub("#[^\n]*", " "):gsub("PF_NULLABLE ", ""):gsub("%s+", " ")
  return (text:gsub("struct (pf_[%w_]+) (%b{});", "typedef struct %2 %1;")) -- declared before
end

--- A parameter list without names, of which a host's program knows nothing.
local function types(list)
  return (list:sub(2, -2) .. ","):gsub("([^,(]-)([%w_]+)(%[?%d*%]?),", function(kind, name, array)
    if kind:match "^%s*$" then return name .. array .. "," end
    return kind:match "^%s*(.-)%s*$" .. array .. ","
  end):sub(1, -2)
end

--- The lines in order: "abi 2", "PF_X: 1", "pf_name: type(types)", "pf_struct: field; field; ...".
local function lines()
  local list, number = {}, nil
  for _, header in ipairs(headers()) do
    number = number or read(root .. header):match "#define PF_ABI_VERSION%s+(%d+)"
    local text = plain(root .. header)
    for result, name, parameters in text:gmatch "PF_API ([%w_ *]-)(pf_[%w_]+)(%b());" do
      list[#list + 1] = ("%s: %s(%s)"):format(name, result:match "^%s*(.-)%s*$", types(parameters))
    end
    for body, name in text:gmatch "typedef struct (%b{}) (pf_[%w_]+);" do
      list[#list + 1] = ("%s: %s"):format(name, body:sub(2, -2):match "^%s*(.-)%s*$")
    end
    for result, name, parameters in text:gmatch "typedef ([%w_ *]-)%(%*(pf_[%w_]+)%)(%b());" do
      list[#list + 1] = ("%s: %s(%s)"):format(name, result, types(parameters))
    end
    for body in text:gmatch "typedef enum [%w_]*%s*(%b{}) pf_[%w_]+;" do
      local value = -1
      for name, set in body:gmatch "(PF_[%w_]+)%s*=?%s*([-%d]*)" do
        value = tonumber(set) or value + 1
        list[#list + 1] = ("%s: %d"):format(name, value)
      end
    end
    for name, value in read(root .. header):gmatch "#define (PF_[%u_]+)%s+(%-?%d+)\n" do
      if not name:find "VERSION" then list[#list + 1] = ("%s: %s"):format(name, value) end
    end
  end
  table.sort(list)
  table.insert(list, 1, "abi " .. number)
  return list
end

--- Does the golden line hold? A struct that begins with its size may go on.
local function kept(golden, now)
  if not now then return false end
  if now == golden then return true end
  return golden:find "^pf_[%w_]+: size_t size;" and now:sub(1, #golden) == golden
end

local now, by_name = lines(), {}
for _, line in ipairs(now) do by_name[line:match "^[^:]+"] = line end

if arg[1] ~= "--check" then
  local file = assert(io.open(GOLDEN, "w"))
  file:write(table.concat(now, "\n"), "\n")
  file:close()
  return
end

local failed, held = 0, 0
local golden = read(GOLDEN)
if golden:match "^abi %d+" ~= now[1] then
  print(("spec/golden/abi.txt is of %s, the headers are of %s: lua5.4 .ci/abi.lua"):format(
    golden:match "^abi %d+", now[1]))
  failed = 1
end
for line in golden:gmatch "[^\n]+" do
  local name = line:match "^[^:]+"
  if failed == 0 and not kept(line, by_name[name]) then
    print(("was %s\nnow %s"):format(line, by_name[name] or "gone"))
    failed = failed + 1
  else
    held = held + 1
  end
end
if failed > 0 then
  print "what stood there must stay; if not: raise PF_ABI_VERSION (where a version with this one"
  print "has gone out), then lua5.4 .ci/abi.lua"
end
print(("%d passed, %d failed"):format(held, failed))
os.exit(failed == 0 and 0 or 1)
