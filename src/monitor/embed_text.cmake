# cmake -DIN=report_template.html -DOUT=report_template.cpp -P embed_text.cmake
file(READ "${IN}" text)
file(WRITE "${OUT}" "// Made from ${IN}.\n"
     "extern const char* const unigrpo_report_template;\n"
     "const char* const unigrpo_report_template = R\"TEMPLATE(")
file(APPEND "${OUT}" "${text}")
file(APPEND "${OUT}" ")TEMPLATE\";\n")
