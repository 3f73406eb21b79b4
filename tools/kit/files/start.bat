@echo off
rem Finds the Python that this kit was made for: start.bat [--folder FOLDER] [--prepare] [options of JupyterLab]
set /p version=<"%~dp0python-version"
where py >nul 2>nul
if errorlevel 1 (python "%~dp0start.py" %*) else (py -%version% "%~dp0start.py" %*)
