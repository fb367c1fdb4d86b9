# Palate on a CPU, without root: docker build -t palate . && docker run --rm -v "$PWD:/work" -u "$(id -u)" palate doctor
# compose.yaml runs `palate serve` in it, beside PostgreSQL.
FROM python:3.12-slim

# implicit, lightgbm and torch need OpenMP's library; scikit-surprise is compiled at its installation.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ libgomp1 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt '.[train,serve,postgres]'

RUN useradd --create-home palate && install -d -o palate -m 777 /work
USER palate
ENV HOME=/work PYTHONUNBUFFERED=1
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["palate"]
CMD ["--help"]
