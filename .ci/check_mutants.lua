-- check_mutants.lua - every change of .ci/mutants_list.lua still has its place: its text stands in
-- its file exactly once, it changes something, and the tests that it names are there. Counts
-- changes. Run from the root.

local function read(path)
  local file <close> = io.open(path, "rb")
  return file and file:read "a"
end

--- How often `text` stands in `whole`.
local function times(whole, text)
  local n, at = 0, 1
  while true do
    local first, last = whole:find(text, at, true)
    if not first then return n end
    n, at = n + 1, last + 1
  end
end

--- What is wrong with a change, or nil.
local function fault(mutant)
  local whole = read(mutant.file)
  if not whole then return "there is no such file" end
  local n = times(whole, mutant.from)
  if n ~= 1 then return ("its text stands there %d times, not once"):format(n) end
  if mutant.to == mutant.from then return "it changes nothing" end
  for test in mutant.tests:gmatch "%S+" do
    local path = test:match "_test$" and "spec/c/" .. test .. ".c" or "spec/" .. test .. ".lua"
    if not read(path) then return "there is no " .. path end
  end
  if not mutant.tests:find "%S" then return "it names no test" end
end

local passed, failed = 0, 0
for _, mutant in ipairs(dofile ".ci/mutants_list.lua") do
  local wrong = fault(mutant)
  if wrong then
    failed = failed + 1
    print(("%s: %q: %s; mend .ci/mutants_list.lua"):format(mutant.file, mutant.name, wrong))
  else
    passed = passed + 1
  end
end
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0)
