# cmake -DIN=plan_template.html -DREPORT=report_template.html -DOUT=plan_template.cpp -P embed_page.cmake
# The page's @STYLE@ and @TOOLS@ are the report's: its style, and the functions that make elements.
file(READ "${IN}" text)
file(READ "${REPORT}" report)
function(take_from_report name begin end)
  string(FIND "${report}" "${begin}" first)
  string(FIND "${report}" "${end}" last)
  if(first EQUAL -1 OR last LESS first)
    message(FATAL_ERROR "${REPORT}: expected \"${begin}\" and after it \"${end}\"")
  endif()
  math(EXPR length "${last} - ${first}")
  string(SUBSTRING "${report}" ${first} ${length} part)
  string(REPLACE "@${name}@" "${part}" text "${text}")
  set(text "${text}" PARENT_SCOPE)
endfunction()
take_from_report(STYLE "<style>" "</style>")
take_from_report(TOOLS "const SVG =" "const minus =")
file(WRITE "${OUT}" "// Made from ${IN}.\n"
     "extern const char* const unigrpo_plan_template;\n"
     "const char* const unigrpo_plan_template = R\"TEMPLATE(")
file(APPEND "${OUT}" "${text}")
file(APPEND "${OUT}" ")TEMPLATE\";\n")
