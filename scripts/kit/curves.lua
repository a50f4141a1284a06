--- curves.lua - points {x, y} of a run's log, made fit for a picture.
local curves = {}

--- At most `most` of the points, evenly taken, with the last.
function curves.thin(points, most)
  local stride = math.ceil(#points / most)
  if stride <= 1 then return points end
  local some = {}
  for i = 1, #points, stride do some[#some + 1] = points[i] end
  if some[#some] ~= points[#points] then some[#some + 1] = points[#points] end
  return some
end

--- The curve without the plunge of its first 3 %, which would flatten all the rest.
function curves.settled(points)
  local last, kept = #points > 0 and points[#points][1] or 0, {}
  for _, point in ipairs(points) do
    if point[1] >= 0.03 * last then kept[#kept + 1] = point end
  end
  return kept
end

--- Field `y` of records over field `x`, which may be a function of a record; records without them
-- are left out.
function curves.points(records, x, y)
  local points = {}
  for _, record in ipairs(records) do
    local at = type(x) == "function" and x(record) or record[x]
    if at and record[y] then points[#points + 1] = { at, record[y] } end
  end
  return points
end

--- The held-out losses of a run over field x: those in passing, and the one that it ended with
--- where its last step has none.
function curves.held_out(run, x)
  local points = curves.points(run.records, x, "valid_loss")
  local last, final = run.records[#run.records], run.final
  if last and final and last.step == final.step and not last.valid_loss then
    local record = setmetatable({ valid_loss = final.valid_loss }, { __index = last })
    table.move(curves.points({ record }, x, "valid_loss"), 1, 1, #points + 1, points)
  end
  return points
end

return curves
