# cmake -DIN=plan_template.html -DSTYLE=report_template.html -DOUT=plan_template.cpp -P embed_page.cmake
file(READ "${IN}" text)
file(READ "${STYLE}" report)
string(FIND "${report}" "<style>" begin)
string(FIND "${report}" "</style>" end)
if(begin EQUAL -1 OR end LESS begin)
  message(FATAL_ERROR "${STYLE} has no <style>")
endif()
math(EXPR length "${end} - ${begin}")
string(SUBSTRING "${report}" ${begin} ${length} style)
string(FIND "${text}" "@STYLE@" place)
string(SUBSTRING "${text}" 0 ${place} before)
math(EXPR rest "${place} + 7")
string(SUBSTRING "${text}" ${rest} -1 after)
file(WRITE "${OUT}" "// Made from ${IN}.\n"
     "extern const char* const unigrpo_plan_template;\n"
     "const char* const unigrpo_plan_template = R\"TEMPLATE(")
file(APPEND "${OUT}" "${before}" "${style}" "${after}")
file(APPEND "${OUT}" ")TEMPLATE\";\n")
