@echo off
rem Does what "make run" does: builds the Docker image and starts a shell in it, with this folder
rem mounted. After an error the window stays open until a key is pressed.
setlocal
cd /d "%~dp0"
if errorlevel 1 (
    echo This folder cannot be entered: copy the project to a local drive and start this file there.
    goto failed
)
docker --version >nul 2>&1
if errorlevel 1 (
    echo Docker is not installed: install Docker Desktop, https://docs.docker.com/desktop, and start this file again.
    goto failed
)
docker info >nul 2>&1
if errorlevel 1 (
    echo Docker is not running: start Docker Desktop, wait until it is ready, and start this file again.
    goto failed
)
if not exist .env (
    echo The file .env is missing: restore it with 'git checkout -- .env' and start this file again.
    goto failed
)

set DOCKER_BUILDKIT=1
docker build --tag fake-store-pipeline .
if errorlevel 1 (
    echo The image could not be built: the lines above say why.
    goto failed
)
docker run --rm -it --env-file .env ^
    --mount "type=bind,source=%CD%,target=/app" ^
    --mount "type=bind,source=%CD%\credentials,target=/app/credentials,readonly" fake-store-pipeline
set code=%errorlevel%
if not %code%==0 (
    echo The container ended with exit code %code%.
    pause
)
exit /b %code%

:failed
pause
exit /b 1
