# Palate on a CPU, without root:
#   docker build -t palate . && docker run --rm --read-only --tmpfs /tmp -v "$PWD:/work" -u "$(id -u)" palate doctor
# compose.yaml runs `palate serve` in it, beside PostgreSQL.
FROM python:3.12-slim

# implicit, lightgbm and torch need OpenMP's library; scikit-surprise is compiled at its installation.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ libgomp1 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt requirements.lock README.md LICENSE ./
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
    --extra-index-url https://pypi.org/simple -c constraints.txt torch \
 && pip install --no-cache-dir --require-hashes -r requirements.lock
COPY src src
RUN pip install --no-cache-dir --no-deps .

RUN useradd --uid 1000 --create-home palate && install -d -o palate -m 777 /work
USER 1000
ENV HOME=/work PYTHONUNBUFFERED=1
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["palate"]
CMD ["--help"]
