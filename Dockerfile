# svt_zoo on the CPU: docker build -t svt-zoo . && docker run --rm -v "$PWD:/data" svt-zoo --help
# Not built by the project's own tests.
FROM python:3.13-slim
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && pip install --no-cache-dir . \
    && rm -rf /src \
    && useradd --create-home svt
USER svt
WORKDIR /data
ENTRYPOINT ["svt-zoo"]
