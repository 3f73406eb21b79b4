@echo off
rem Finds the Python that this kit was made for: start.bat [--folder FOLDER] [--prepare] [options of JupyterLab]
for /f "usebackq" %%v in ("%~dp0python-version") do set version=%%v
py -%version% -c "" >nul 2>nul
if errorlevel 1 (python "%~dp0start.py" %*) else (py -%version% "%~dp0start.py" %*)
if errorlevel 1 pause
